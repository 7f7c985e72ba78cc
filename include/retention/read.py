"""What is there of a model, how old it is, and who uses it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from include.errors import NotFoundError
from include.lake.files import read_bytes
from include.lake.history import partition_times
from include.lake.listing import list_files
from include.progress.facts import DAG_STAGES
from include.progress.read import read_progress
from include.registry.models import list_versions
from include.registry.package import LOCK
from include.registry.rest import get
from include.retention.plan import Held, Kind, World
from include.rollout.history import champion_of, former_champion
from include.training.job import JOB_FILE
from include.training.snapshot import MANIFEST, source_partitions
from include.validation.partition import QUARANTINE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from include.lake.storage import Storage
    from include.progress.read import Sources
    from include.registry.models import ModelVersion
    from include.serving.client import ModelServerClient
    from include.spec import ModelSpec

RUN_STAGES = (*DAG_STAGES, "rollback", "score")
_MAX_RUNS = 1000
"""Dag runs of one model that one pass removes at most."""


class KeepsRuns(Protocol):
    """What retention needs of `include.runtime.airflow_api.AirflowApi`."""

    def dag_runs(
        self,
        dag_ids: Sequence[str],
        *,
        max_runs: int,
        states: Sequence[str] = (),
        ended_before: datetime | None = None,
    ) -> list[dict[str, Any]]:
        """Return the runs of some Dags."""
        ...

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Remove a run."""
        ...


@dataclass(frozen=True, kw_only=True)
class Servers:
    """The servers that must all answer before anything is removed: what is silent may be using it."""

    tracking_uri: str
    server: ModelServerClient
    airflow: KeepsRuns


def read_world(*, spec: ModelSpec, sources: Sources, servers: Servers, now: datetime) -> World:
    """Return everything of a model that retention may touch.

    Raises:
        ServiceError: MLflow, the model server or Airflow does not answer.
    """
    storage = sources.storage
    times = [
        partition_times(uri=storage.table(spec.name, table), storage_options=storage.options)
        for table in spec.source.tables
    ]
    published = source_partitions(spec=spec, storage=storage)
    training = servers.airflow.dag_runs([f"train_{spec.name}"], max_runs=1, states=("queued", "running"))
    progress = read_progress(spec=spec, sources=sources, now=now)
    return World(
        model=spec.name,
        held=(
            *_lake(spec=spec, storage=storage),
            *_versions(servers.tracking_uri, model=spec.name, storage=storage),
            *_runs(servers.airflow, spec=spec, now=now),
        ),
        in_use=frozenset(_in_use(spec=spec, sources=sources, servers=servers)),
        published={key: max(found[key] for found in times if key in found) for key in published},
        open_partitions=frozenset(part.partition for part in progress.partitions if not part.is_closed),
        is_training=bool(training),
    )


def _lake(*, spec: ModelSpec, storage: Storage) -> Iterator[Held]:
    model = spec.name
    for name, folder, at in _folders(storage.landing(model), storage=storage):
        yield Held(kind=Kind.LANDING, key=folder, at=at, partition=name)
    for name, folder, at in _folders(storage.report(model, "").rstrip("/"), storage=storage):
        yield Held(kind=Kind.REPORT, key=folder, at=at, partition=name)
    for file in list_files(storage.predictions(model), storage=storage):
        yield Held(kind=Kind.PREDICTIONS, key=file.uri, at=file.modified_at)
    for partition, at in partition_times(uri=storage.table(model, QUARANTINE), storage_options=storage.options).items():
        yield Held(kind=Kind.QUARANTINE, key=partition, at=at, partition=partition)
    for _, folder, at in _folders(storage.job(model, "").rstrip("/"), storage=storage):
        snapshot = _document(f"{folder}/{JOB_FILE}", storage=storage).get("snapshot", {}).get("uri")
        needs = frozenset({(Kind.SNAPSHOT, str(snapshot))}) if snapshot else frozenset()
        yield Held(kind=Kind.JOB, key=folder, at=at, needs=needs)
    for _, folder, at in _folders(storage.snapshot(model, "").rstrip("/"), storage=storage):
        pins = _document(f"{folder}/{MANIFEST}", storage=storage).get("versions", {})
        yield Held(kind=Kind.SNAPSHOT, key=folder, at=at, pins=pins)


def _folders(uri: str, *, storage: Storage) -> Iterator[tuple[str, str, datetime]]:
    """Yield name, URI and newest file's time of each folder right below one."""
    newest: dict[str, datetime] = {}
    for file in list_files(uri, storage=storage):
        name, _, rest = file.uri.removeprefix(f"{uri}/").partition("/")
        if rest:
            newest[name] = max(file.modified_at, newest.get(name, file.modified_at))
    for name, at in newest.items():
        yield name, f"{uri}/{name}", at


def _document(uri: str, *, storage: Storage) -> dict[str, Any]:
    """Return a JSON file's content; empty if it was never finished."""
    try:
        return dict(json.loads(read_bytes(uri, storage=storage)))
    except (NotFoundError, ValueError):
        return {}


def _versions(tracking_uri: str, *, model: str, storage: Storage) -> Iterator[Held]:
    for version in list_versions(tracking_uri, model=model):
        tags = version.tags
        run = (Kind.RUN, f"{tags.get('dag_id', '')} {tags.get('dag_run_id', '')}")
        needs = {
            run,
            (Kind.JOB, storage.job(model, tags.get("job_key", ""))),
            (Kind.SNAPSHOT, tags.get("snapshot", "")),
        }
        yield Held(
            kind=Kind.VERSION,
            key=version.version,
            at=datetime.fromtimestamp(version.created_at_ms / 1000, UTC),
            needs=frozenset(needs),
            pins=_locked(version, storage=storage),
        )


def _locked(version: ModelVersion, *, storage: Storage) -> Mapping[str, int] | None:
    """Return the table versions that a version's lock file names; None if it cannot be read."""
    from include.lake.storage import Storage as StorageAt

    found = _document(f"{version.source}/{LOCK}", storage=StorageAt(root=version.source, options=storage.options))
    versions = found.get("snapshot", {}).get("versions")
    return {str(table): int(number) for table, number in versions.items()} if versions is not None else None


def _in_use(*, spec: ModelSpec, sources: Sources, servers: Servers) -> Iterable[str]:
    """Yield the versions that an alias names, that the server knows, or that a roll-back would go to.

    What is deployed elsewhere is the champion, the one before or the challenger: aliases and ledger name them.
    """
    if spec.rollout.target == "local":
        routed = servers.server.get_routes(model=spec.name)
        yield from routed["versions"]
        yield from (str(name) for role, name in routed["routes"].items() if role in ("champion", "canary", "shadow"))
    yield from aliased(servers.tracking_uri, model=spec.name)
    yield from filter(None, (champion_of(sources.ledger, spec.name), former_champion(sources.ledger, spec.name)))


def aliased(tracking_uri: str, *, model: str) -> frozenset[str]:
    """Return the versions that any alias names, those that people have made included.

    Raises:
        ServiceError: MLflow does not answer.
    """
    try:
        found = get(tracking_uri, "registered-models/get", {"name": model})["registered_model"]
    except NotFoundError:
        return frozenset()
    return frozenset(str(alias["version"]) for alias in found.get("aliases", ()))


def _runs(api: KeepsRuns, *, spec: ModelSpec, now: datetime) -> Iterator[Held]:
    days = spec.retention.runs_days
    if days is None:
        return
    dag_ids = [f"{stage}_{spec.name}" for stage in RUN_STAGES]
    ended = api.dag_runs(dag_ids, max_runs=_MAX_RUNS, states=("success", "failed"), ended_before=now - timedelta(days))
    for raw in ended:
        yield Held(
            kind=Kind.RUN,
            key=f"{raw['dag_id']} {raw['dag_run_id']}",
            at=datetime.fromisoformat(raw["end_date"]),
            partition=raw["partition_key"] or "",
        )
