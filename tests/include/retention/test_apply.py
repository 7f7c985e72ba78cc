"""Retention on a real lake, a real MLflow and a real model server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from include.errors import NotFoundError, ServiceError
from include.lake.files import file_exists, write_bytes
from include.lake.tables import read_table, write_partition
from include.progress.read import Sources
from include.registry.models import get_version, list_versions, set_alias
from include.registry.rest import post
from include.retention.apply import Remover
from include.retention.plan import Kind
from include.retention.read import Servers
from include.serving.client import ModelServerClient
from include.spec import RetentionSpec, load_spec
from tests.running import MODEL, RolloutWorld

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.lake.storage import Storage

POLICY = RetentionSpec(landing_days=10, min_versions=1)
SPEC = load_spec(MODEL).model_copy(update={"retention": POLICY})
LONG_AGO, LATER = datetime.now(UTC) - timedelta(days=300), timedelta(days=500)


@dataclass
class FakeRuns:
    """Dag runs that have all ended, or one that trains."""

    ended: list[str] = field(default_factory=list)
    is_training: bool = False

    def dag_runs(
        self,
        dag_ids: Sequence[str],  # noqa: ARG002 - the protocol's signature
        *,
        max_runs: int,  # noqa: ARG002 - same
        states: Sequence[str] = (),  # noqa: ARG002 - same
        ended_before: datetime | None = None,
    ) -> list[dict[str, Any]]:
        if ended_before is None:
            return [{}] if self.is_training else []
        end = LONG_AGO.isoformat()
        return [
            {"dag_id": f"train_{MODEL}", "dag_run_id": run, "end_date": end, "partition_key": "2013-02"}
            for run in self.ended
        ]

    def delete_run(self, dag_id: str, run_id: str) -> None:
        assert dag_id == f"train_{MODEL}"
        self.ended.remove(run_id)


@pytest.fixture
def lake(storage: Storage) -> Storage:
    """Return a lake in which `flights` has the versions 0 to 5, one row each; 2013-02 is closed, 2013-01 is not."""
    for partition in ("2013-01", "2013-02"):
        write_bytes(f"{storage.landing(MODEL, partition)}/_SUCCESS", b"", storage=storage)
        write_bytes(f"{storage.report(MODEL, partition)}/drift.html", b"", storage=storage)
        write(storage, "weather", partition, 0)
        write(storage, "flights", partition, 0)
    for value in (1, 2, 3, 4):
        write(storage, "flights", "2013-01", value)
    write_bytes(f"{storage.predictions(MODEL)}/1.parquet", b"", storage=storage)
    return storage


def write(storage: Storage, table: str, partition: str, value: int) -> None:
    uri = storage.table(MODEL, table)
    write_partition(uri=uri, table=pa.table({"value": [value]}), partition=partition, storage_options={})


def is_readable(storage: Storage, version: int) -> bool:
    """Return whether a version of `flights` can still be read as a whole."""
    try:
        read_table(uri=storage.table(MODEL, "flights"), storage_options={}, version=version)
    except OSError:
        return False
    return True


def register(world: RolloutWorld, storage: Storage, *, pinned: int, alias: str | None) -> str:
    lock = {"snapshot": {"versions": {"flights": pinned}}}
    version = world.register(alias=alias, replaced={"lock.json": json.dumps(lock).encode()})
    key = f"{world.folder.name}-{world.num_registered}"
    snapshot = storage.snapshot(MODEL, f"of-{pinned}")
    document = json.dumps({"snapshot": {"uri": snapshot}}).encode()
    write_bytes(f"{storage.job(MODEL, key)}/job.json", document, storage=storage)
    write_bytes(f"{storage.job(MODEL, key)}/checkpoints/1.pt", b"", storage=storage)
    manifest = json.dumps({"versions": {"flights": pinned}}).encode()
    write_bytes(f"{snapshot}/manifest.json", manifest, storage=storage)
    return version


def remover(
    world: RolloutWorld, storage: Storage, runs: FakeRuns, *, server: ModelServerClient | None = None
) -> Remover:
    client = server or world.server.client
    sources = Sources(storage=storage, ledger=world.ledger, tracking_uri=world.mlflow_url, server=client)
    servers = Servers(tracking_uri=world.mlflow_url, server=client, airflow=runs)
    return Remover(spec=SPEC, sources=sources, servers=servers)


def close(world: RolloutWorld, partition: str) -> None:
    evidence = {"verdict": "keep", "reasons": []}
    world.ledger.append(
        model=MODEL, kind="retrain_decision", subject=partition, evidence=evidence, actor="test", key=partition
    )


def test_what_is_needed_stays_readable_and_the_rest_goes(rollout_world: RolloutWorld, lake: Storage) -> None:
    world, runs = rollout_world, FakeRuns(ended=["r1"])
    close(world, "2013-02")
    kept_by_a_person = register(world, lake, pinned=1, alias=None)
    set_alias(world.mlflow_url, model=MODEL, alias="audit-2025", version=kept_by_a_person)
    gone = register(world, lake, pinned=2, alias=None)
    champion = register(world, lake, pinned=3, alias="champion")
    package = Path(get_version(world.mlflow_url, model=MODEL, version=gone).source)
    log = world.folder / "logs" / f"dag_id=train_{MODEL}" / "run_id=r1"
    log.mkdir(parents=True)
    newest = DeltaTable(lake.table(MODEL, "flights")).version()
    subject = remover(world, lake, runs)
    subject = Remover(spec=SPEC, sources=subject.sources, servers=subject.servers, logs=world.folder / "logs")
    now = datetime.now(UTC) + LATER

    planned = subject.preview(now=now)

    assert is_readable(lake, 2)
    assert package.exists()
    assert world.ledger.entries(MODEL, "retention") == []

    done = subject.remove(now=now, actor="test", key="1")

    assert done == planned
    assert {"registered version", "training job", "training set", "table file", "Dag run"} <= set(done.num_by_kind)
    left = [version.version for version in list_versions(world.mlflow_url, model=MODEL)]
    assert left == [kept_by_a_person, champion]
    assert not package.exists()
    assert [version for version in range(newest + 1) if is_readable(lake, version)] == [
        0,
        1,
        3,
        newest,
    ]  # 1 holds all of 0
    assert DeltaTable(lake.table(MODEL, "flights")).version() == newest  # no commit of our own
    assert file_exists(f"{lake.snapshot(MODEL, 'of-1')}/manifest.json", storage=lake)
    assert not Path(lake.snapshot(MODEL, "of-2")).exists()
    assert not Path(lake.landing(MODEL, "2013-02")).exists()
    assert Path(lake.landing(MODEL, "2013-01")).exists()  # not closed yet
    assert Path(lake.report(MODEL, "2013-01")).exists()
    assert not Path(f"{lake.predictions(MODEL)}/1.parquet").exists()
    assert (runs.ended, log.exists()) == ([], False)
    (entry,) = world.ledger.entries(MODEL, "retention")
    # The registry is shared with other tests of this process, whose versions are as old.
    assert gone in entry.evidence["versions"]
    assert not {kept_by_a_person, champion} & set(entry.evidence["versions"])

    again = subject.remove(now=now, actor="test", key="2")

    assert (again.removals, again.files) == ((), ())
    assert len(world.ledger.entries(MODEL, "retention")) == 1


def test_a_version_that_the_server_has_loaded_stays(rollout_world: RolloutWorld, lake: Storage) -> None:
    world = rollout_world
    loaded = register(world, lake, pinned=1, alias=None)
    register(world, lake, pinned=3, alias="champion")
    found = get_version(world.mlflow_url, model=MODEL, version=loaded)
    world.server.client.load(model=MODEL, version=loaded, uri=found.source, digest=found.tags["digest"])

    planned = remover(world, lake, FakeRuns()).preview(now=datetime.now(UTC) + LATER)

    assert loaded not in [item.key for item in planned.removals if item.kind is Kind.VERSION]


def test_a_version_that_was_promoted_since_the_plan_stays(rollout_world: RolloutWorld, lake: Storage) -> None:
    world = rollout_world
    chosen = register(world, lake, pinned=1, alias=None)
    register(world, lake, pinned=3, alias="champion")
    subject = remover(world, lake, FakeRuns())
    (removal,) = [item for item in subject.preview(now=datetime.now(UTC) + LATER).removals if item.key == chosen]
    set_alias(world.mlflow_url, model=MODEL, alias="challenger", version=chosen)

    assert not subject._remove(removal)
    assert get_version(world.mlflow_url, model=MODEL, version=chosen)


def test_a_removal_that_was_killed_goes_on(rollout_world: RolloutWorld, lake: Storage) -> None:
    """Killed after the files and MLflow's run: the version is still listed."""
    world = rollout_world
    half = register(world, lake, pinned=1, alias=None)
    register(world, lake, pinned=3, alias="champion")
    found = get_version(world.mlflow_url, model=MODEL, version=half)
    for file in Path(found.source).iterdir():
        file.unlink()
    post(world.mlflow_url, "runs/delete", {"run_id": found.run_id})
    subject = remover(world, lake, FakeRuns())

    subject.remove(now=datetime.now(UTC) + LATER, actor="test", key="1")

    with pytest.raises(NotFoundError):
        get_version(world.mlflow_url, model=MODEL, version=half)


def test_a_training_keeps_jobs_training_sets_and_tables(rollout_world: RolloutWorld, lake: Storage) -> None:
    register(rollout_world, lake, pinned=3, alias="champion")
    write_bytes(f"{lake.job(MODEL, 'old')}/job.json", b"{}", storage=lake)

    planned = remover(rollout_world, lake, FakeRuns(is_training=True)).preview(now=datetime.now(UTC) + LATER)

    assert not [item for item in planned.removals if item.kind in (Kind.JOB, Kind.SNAPSHOT)]
    assert planned.files == ()


def test_nothing_goes_while_a_server_is_silent(rollout_world: RolloutWorld, lake: Storage, free_port: int) -> None:
    away = ModelServerClient(base_url=f"http://127.0.0.1:{free_port}")
    subject = remover(rollout_world, lake, FakeRuns(), server=away)

    with pytest.raises(ServiceError):
        subject.remove(now=datetime.now(UTC) + LATER, actor="test", key="1")

    assert Path(f"{lake.predictions(MODEL)}/1.parquet").exists()


def test_nothing_young_goes(rollout_world: RolloutWorld, lake: Storage) -> None:
    register(rollout_world, lake, pinned=3, alias=None)
    register(rollout_world, lake, pinned=3, alias="champion")

    found = remover(rollout_world, lake, FakeRuns()).remove(now=datetime.now(UTC), actor="test", key="1")

    assert (found.removals, found.files) == ((), ())
