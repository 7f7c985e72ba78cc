"""Remove what the plan names, each thing so that a kill in between is made good by the next pass."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from include.errors import NotFoundError
from include.lake.files import delete_file
from include.lake.listing import list_files
from include.lake.storage import Storage
from include.lake.tables import read_table, write_partition
from include.registry.models import get_version
from include.registry.package import MANIFEST as PACKAGE_MANIFEST
from include.registry.rest import get, post
from include.retention.plan import Kind, plan_retention
from include.retention.read import aliased, read_world
from include.retention.tables import StaleFiles, stale_files
from include.training.result import RESULT_FILE
from include.training.snapshot import MANIFEST as SNAPSHOT_MANIFEST
from include.validation.partition import QUARANTINE

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from include.progress.read import Sources
    from include.retention.plan import Removal
    from include.retention.read import KeepsRuns, Servers
    from include.spec import ModelSpec

KIND = "retention"
"""Kind of the ledger's entry about what a pass removed."""


@dataclass(frozen=True, kw_only=True)
class Retained:
    """What a pass over one model removed, or would remove.

    Args:
        model: The model's name.
        removals: Things.
        files: Files of tables that only versions need which nothing pins.
    """

    model: str
    removals: tuple[Removal, ...]
    files: tuple[StaleFiles, ...]

    @property
    def num_by_kind(self) -> dict[str, int]:
        """How many of each kind, `table file` included."""
        counts = {str(kind): sum(item.kind is kind for item in self.removals) for kind in Kind}
        counts["table file"] = sum(len(item.uris) for item in self.files)
        return {kind: count for kind, count in counts.items() if count}


@dataclass(frozen=True, kw_only=True)
class Remover:
    """Removes things of one model.

    Args:
        spec: The model.
        sources: Its lake and ledger.
        servers: Its servers.
        logs: Folder of Airflow's task logs, if this machine holds them.
    """

    spec: ModelSpec
    sources: Sources
    servers: Servers
    logs: Path | None = None

    def preview(self, *, now: datetime) -> Retained:
        """Return what may be removed now; nothing is.

        Raises:
            ServiceError: A server does not answer.
        """
        world = read_world(spec=self.spec, sources=self.sources, servers=self.servers, now=now)
        plan = plan_retention(world, self.spec.retention, now=now)
        days = self.spec.retention.history_days
        files: tuple[StaleFiles, ...] = ()
        if plan.pins is not None and days is not None and not world.is_training:
            before = now - timedelta(days=days)
            files = tuple(stale_files(spec=self.spec, storage=self.sources.storage, pins=plan.pins, before=before))
        return Retained(model=self.spec.name, removals=plan.removals, files=files)

    def remove(self, *, now: datetime, actor: str, key: str) -> Retained:
        """Remove what may be removed now, and record it; a second call at once finds nothing.

        What is there and who uses it is read right before; a version's aliases are read once more before it goes.

        Args:
            now: The clock, UTC.
            actor: Who acts, for the ledger.
            key: Names the pass; the ledger records it once.

        Raises:
            ServiceError: A server does not answer; the next pass removes the rest.
        """
        planned = self.preview(now=now)
        done = tuple(removal for removal in planned.removals if self._remove(removal))
        for table in planned.files:
            for uri in table.uris:
                delete_file(uri, storage=self.sources.storage)
        found = Retained(model=planned.model, removals=done, files=planned.files)
        if found.num_by_kind:
            versions = [item.key for item in done if item.kind is Kind.VERSION]
            self.sources.ledger.append(
                model=found.model,
                kind=KIND,
                subject=found.model,
                evidence={"removed": found.num_by_kind, "versions": versions},
                actor=actor,
                key=f"{KIND}:{found.model}:{key}",
            )
        return found

    def _remove(self, removal: Removal) -> bool:
        """Remove one thing; return False if somebody uses it by now."""
        if removal.kind is Kind.VERSION:
            return self._remove_version(removal.key)
        if removal.kind is Kind.RUN:
            dag_id, run_id = removal.key.split(" ", 1)
            remove_run(dag_id, run_id, airflow=self.servers.airflow, logs=self.logs)
        elif removal.kind is Kind.QUARANTINE:
            self._empty_quarantine(removal.key)
        elif removal.kind is Kind.PREDICTIONS:
            delete_file(removal.key, storage=self.sources.storage)
        else:
            first = (self.spec.source.marker, SNAPSHOT_MANIFEST, RESULT_FILE)
            _delete_folder(removal.key, first=first, storage=self.sources.storage)
        return True

    def _remove_version(self, version: str) -> bool:
        """Remove files, then MLflow's run, then the version: as long as that is listed, the next pass goes on."""
        model, uri = self.spec.name, self.servers.tracking_uri
        if version in aliased(uri, model=model):
            return False
        try:
            found = get_version(uri, model=model, version=version)
        except NotFoundError:
            return True
        artifacts = Storage(root=found.source, options=self.sources.storage.options)
        _delete_folder(found.source, first=(PACKAGE_MANIFEST,), storage=artifacts)
        run = get(uri, "runs/get", {"run_id": found.run_id})["run"]["info"]
        if run["lifecycle_stage"] == "active":
            post(uri, "runs/delete", {"run_id": found.run_id})
        post(uri, "model-versions/delete", {"name": model, "version": version}, method="DELETE")
        return True

    def _empty_quarantine(self, partition: str) -> None:
        storage = self.sources.storage
        uri = storage.table(self.spec.name, QUARANTINE)
        rows = read_table(uri=uri, storage_options=storage.options, partitions=[partition])
        write_partition(uri=uri, table=rows.slice(0, 0), partition=partition, storage_options=storage.options)


def remove_run(dag_id: str, run_id: str, *, airflow: KeepsRuns, logs: Path | None) -> None:
    """Remove a run's logs, if this machine holds them, then the run.

    Raises:
        ServiceError: Airflow does not answer.
    """
    if logs is not None:
        shutil.rmtree(logs / f"dag_id={dag_id}" / f"run_id={run_id}", ignore_errors=True)
    airflow.delete_run(dag_id, run_id)


def _delete_folder(uri: str, *, first: tuple[str, ...], storage: Storage) -> None:
    """Delete a folder, the file first without which it is not taken for whole."""
    files = [file.uri for file in list_files(uri, storage=storage)]
    for file in sorted(files, key=lambda name: name.rpartition("/")[2] not in first):
        delete_file(file, storage=storage)
    if storage.is_local:
        shutil.rmtree(uri, ignore_errors=True)
