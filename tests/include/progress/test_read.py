"""Progress read from a real lake, ledger, MLflow and model server, and from a server that speaks Airflow's REST API."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from include.errors import ServiceError
from include.lake.files import write_bytes
from include.lake.tables import write_partition
from include.progress.read import Sources, read_progress
from include.progress.reconcile import reconcile, reconcile_models
from include.progress.state import PartitionProgress, Reason, Stage
from include.progress.telling import Teller
from include.rollout.ledger import Ledger
from include.runtime.airflow_api import AirflowApi
from include.serving.client import ModelServerClient
from include.spec import load_spec
from tests.fake_airflow import PASSWORD, FakeAirflow, fake_airflow
from tests.running import MODEL, RolloutWorld

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.lake.storage import Storage

SPEC = load_spec(MODEL)
GRACE = timedelta(seconds=SPEC.progress.grace_s)


@pytest.fixture
def airflow() -> Iterator[FakeAirflow]:
    with fake_airflow(MODEL) as fake:
        yield fake


@pytest.fixture
def sources(storage: Storage, tmp_path: Path, airflow: FakeAirflow) -> Sources:
    api = AirflowApi(base_url=airflow.base_url, username="reconciler", password=PASSWORD)
    return Sources(storage=storage, ledger=Ledger(path=tmp_path / "ledger.sqlite"), airflow=api)


def publish(storage: Storage, *partitions: str) -> None:
    for partition in partitions:
        for table in SPEC.source.tables:
            uri = storage.table(MODEL, table)
            write_partition(uri=uri, table=pa.table({"value": [1]}), partition=partition, storage_options={})


def progress_of(partition: str, sources: Sources, *, after: timedelta = 2 * GRACE) -> PartitionProgress:
    found = read_progress(spec=SPEC, sources=sources, now=datetime.now(UTC) + after)
    return next(item for item in found.partitions if item.partition == partition)


def test_a_marker_is_a_landed_partition_and_no_marker_is_none(sources: Sources, airflow: FakeAirflow) -> None:
    folder = sources.storage.landing(MODEL, "2013-01")
    write_bytes(f"{folder}/flights.csv", b"", storage=sources.storage)
    airflow.add_run(f"ingest_{MODEL}", "2013-01", "running", at=datetime.now(UTC).isoformat())
    assert progress_of("2013-01", sources).furthest is None
    late = progress_of("2013-01", sources, after=timedelta(days=2)).stuck
    assert late is not None
    assert (late.reason, late.stage) == (Reason.LANDING_LATE, Stage.LANDED)
    assert folder in late.detail

    write_bytes(f"{folder}/{SPEC.source.marker}", b"", storage=sources.storage)

    assert progress_of("2013-01", sources).furthest is Stage.LANDED


def test_a_partition_that_only_one_table_holds_is_not_ingested(sources: Sources) -> None:
    uri = sources.storage.table(MODEL, "flights")
    write_partition(uri=uri, table=pa.table({"value": [1]}), partition="2013-01", storage_options={})

    assert [
        item.partition for item in read_progress(spec=SPEC, sources=sources, now=datetime.now(UTC)).partitions
    ] == []


def test_a_failed_task_is_told_with_what_its_alert_kept(sources: Sources, airflow: FakeAirflow) -> None:
    publish(sources.storage, "2013-01")
    at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    run = airflow.add_run(f"materialize_{MODEL}", "2013-01", "failed", at=at)
    airflow.tasks[run["dag_run_id"]] = [
        {"task_id": "build_features", "state": "success", "start_date": at},
        {"task_id": "check_parity", "state": "failed", "start_date": at},
    ]
    where = f"materialize_{MODEL}"
    sources.ledger.append(
        model=MODEL,
        kind="alert",
        subject=f"{where}.check_parity",
        evidence={"run": f"{where}:{run['dag_run_id']}", "text": "it failed\nGateError: 3 values differ\nhttp://log"},
        actor="test",
        key="1",
    )

    found = progress_of("2013-01", sources).stuck

    assert found is not None
    assert found.detail == f"{where}.check_parity failed: GateError: 3 values differ"
    assert found.url == f"{airflow.base_url}/dags/{where}/runs/{run['dag_run_id']}/tasks/check_parity"


def test_a_lost_event_is_repaired_told_and_recorded_once(sources: Sources, airflow: FakeAirflow) -> None:
    publish(sources.storage, "2013-01", "2013-02")
    airflow.now = (datetime.now(UTC) + GRACE).isoformat()
    teller = Teller(ledger=sources.ledger, poster=None, actor="test")
    now = datetime.now(UTC) + 2 * GRACE

    looked = reconcile(spec=SPEC, sources=sources, now=now, actor=None, teller=teller)
    assert (len(looked.planned), looked.started, airflow.runs) == (2, (), [])
    first, second = (reconcile(spec=SPEC, sources=sources, now=now, actor="test", teller=teller) for _ in range(2))

    assert [repair.partition for repair in first.started] == ["2013-01", "2013-02"]
    assert second.planned == ()
    assert [(run["dag_id"], run["partition_key"]) for run in airflow.runs] == [
        (f"materialize_{MODEL}", "2013-01"),
        (f"materialize_{MODEL}", "2013-02"),
    ]
    assert [entry.subject for entry in sources.ledger.entries(MODEL, "reconcile")] == ["2013-01", "2013-02"]
    assert len(sources.ledger.entries(MODEL, "alert")) == 2


def test_nothing_is_repaired_while_an_event_may_still_come(sources: Sources, airflow: FakeAirflow) -> None:
    publish(sources.storage, "2013-01")

    found = reconcile(spec=SPEC, sources=sources, now=datetime.now(UTC), actor="test")

    assert (found.planned, airflow.runs) == ((), [])


def test_a_token_that_expired_is_renewed(sources: Sources, airflow: FakeAirflow) -> None:
    read_progress(spec=SPEC, sources=sources, now=datetime.now(UTC))
    airflow.num_logins += 1  # the server knows the old token no more

    assert read_progress(spec=SPEC, sources=sources, now=datetime.now(UTC)).silent[0].startswith("MLflow")


def test_without_airflow_progress_comes_from_the_files(sources: Sources, free_port: int) -> None:
    publish(sources.storage, "2013-01")
    away = replace(sources, airflow=AirflowApi(base_url=f"http://127.0.0.1:{free_port}", password="x"))

    found = read_progress(spec=SPEC, sources=away, now=datetime.now(UTC))

    assert [(item.partition, item.furthest) for item in found.partitions] == [("2013-01", Stage.INGESTED)]
    assert any(text.startswith("Airflow:") for text in found.silent)
    with pytest.raises(ServiceError):
        reconcile_models([MODEL], sources=away, now=datetime.now(UTC), actor="test")


def test_a_model_that_cannot_be_read_hides_no_other(sources: Sources) -> None:
    found = reconcile_models(["no_such_model", MODEL], sources=sources, now=datetime.now(UTC), actor="test")

    assert list(found.unreadable) == ["no_such_model"]
    assert [item.progress.model for item in found.models] == [MODEL]
    assert found.to_dict()["num_models"] == 2


def test_a_version_without_a_deployment_is_found_in_mlflow(
    rollout_world: RolloutWorld, sources: Sources, airflow: FakeAirflow
) -> None:
    world = rollout_world
    publish(sources.storage, "2013-03")
    decided = {"verdict": "bootstrap", "reasons": ["no champion serves"]}
    sources.ledger.append(
        model=MODEL, kind="retrain_decision", subject="2013-03", evidence=decided, actor="test", key="d"
    )
    version = world.register(window_end="2013-03")
    server = ModelServerClient(base_url=world.server.url, admin_token=world.server.client.admin_token)
    all_of = replace(sources, tracking_uri=world.mlflow_url, server=server)

    found = progress_of("2013-03", all_of)

    assert found.furthest is Stage.TRAINED
    assert found.stuck is not None
    assert (found.stuck.reason, found.stuck.stage) == (Reason.EVENT_LOST, Stage.DEPLOYED)
    assert f"version {version}" in found.stuck.detail

    (started,) = reconcile(spec=SPEC, sources=all_of, now=datetime.now(UTC) + 2 * GRACE, actor="test").started
    assert started.dag_id == f"deploy_{MODEL}"

    # An old run's version never deploys: the alias has moved on.
    world.register(window_end="2013-04")
    airflow.runs.clear()
    later = reconcile(spec=SPEC, sources=all_of, now=datetime.now(UTC) + 2 * GRACE, actor="test")
    assert [repair for repair in later.planned if repair.partition == "2013-03"] == []


def test_a_long_history_that_is_run_again_is_looked_at_where_it_is(sources: Sources, airflow: FakeAirflow) -> None:
    """By the calendar all its days are over; the newest of them say nothing about the one that is run now."""
    spec = load_spec("airport_weather")
    table = next(iter(spec.source.tables))
    for day in ("2013-01-01", "2013-01-02"):
        uri = sources.storage.table(spec.name, table)
        write_partition(uri=uri, table=pa.table({"value": [1]}), partition=day, storage_options={})
    folder = sources.storage.landing(spec.name, "2013-01-03")
    write_bytes(f"{folder}/{spec.source.marker}", b"", storage=sources.storage)
    airflow.add_run(f"ingest_{spec.name}", "no such day", "failed", at=datetime.now(UTC).isoformat())

    found = read_progress(spec=spec, sources=sources, now=datetime.now(UTC))

    assert [(item.partition, item.furthest) for item in found.partitions] == [
        ("2013-01-01", Stage.INGESTED),
        ("2013-01-02", Stage.INGESTED),
        ("2013-01-03", Stage.LANDED),
    ]
