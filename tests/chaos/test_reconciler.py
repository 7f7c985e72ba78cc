"""Events that a real Airflow loses for ever, and the reconciler that makes them good."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from include.cli.deployment import sources_of
from include.demo.flights import MODEL, land_month
from include.errors import ServiceError
from include.lake.ingest import ingest_partition
from include.progress.read import read_progress
from include.progress.reconcile import Reconciled, reconcile
from include.progress.state import PartitionProgress, Reason, Stage
from include.runtime.airflow_api import AirflowApi
from include.runtime.home import REPO
from include.spec import load_spec
from include.validation.partition import check_partition, publish_partition

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage
    from include.progress.read import Sources
    from include.runtime.services import Deployment

SPEC = load_spec(MODEL)
MATERIALIZE = f"materialize_{MODEL}"


def soon() -> datetime:
    """Return a moment at which every grace period is over, and no other limit."""
    return datetime.now(UTC) + timedelta(seconds=2 * SPEC.progress.grace_s)


def progress_of(partition: str, sources: Sources) -> PartitionProgress:
    found = read_progress(spec=SPEC, sources=sources, now=soon())
    return next(item for item in found.partitions if item.partition == partition)


def api_of(sources: Sources) -> AirflowApi:
    assert sources.airflow is not None
    return sources.airflow


def repair(sources: Sources) -> Reconciled:
    return reconcile(spec=SPEC, sources=sources, now=soon(), actor="test")


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 150
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def command_line(*arguments: str) -> str:
    """Return what `./tradewind` prints."""
    command = [sys.executable, "-m", "include.cli", *arguments]
    return subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True, timeout=120).stdout


def publish_by_hand(storage: Storage, partition: str) -> None:
    """Commit a partition's rows with nobody there to send the event."""
    ingest_partition(spec=SPEC, storage=storage, partition=partition)
    checked = check_partition(spec=SPEC, storage=storage, partition=partition)
    publish_partition(spec=SPEC, storage=storage, checked=checked)


def lose_by_a_pause(sources: Sources, deployment: Deployment) -> None:
    """A consumer that is paused loses the event, and unpausing it does not bring the event back."""
    api = api_of(sources)
    api.patch(f"dags/{MATERIALIZE}", {"is_paused": True})
    land_month(storage=sources.storage, partition="2013-01", max_flights=3000)
    wait_until(lambda: bool(api.asset_events(f"{MODEL}.dataset")))
    wait_until(lambda: progress_of("2013-01", sources).furthest is Stage.INGESTED)
    paused = progress_of("2013-01", sources).stuck
    assert paused is not None
    assert paused.reason is Reason.DAG_PAUSED
    assert repair(sources).planned == ()

    said = command_line("reconcile", MODEL, "--unpause", "--home", str(deployment.home.root))
    assert "0 started" in said  # by its clock the event may still come
    time.sleep(3)
    assert api.dag_runs([MATERIALIZE], max_runs=5) == []


def lose_by_hand(sources: Sources, reconciler: AirflowApi) -> None:
    """Rows are committed without an event; their ingest run is gone, as after a restored backup."""
    api, ingest = api_of(sources), f"ingest_{MODEL}"
    (waiting,) = [run for run in api.dag_runs([ingest], max_runs=100) if run["partition_key"] == "2013-02"]
    api.patch(f"dags/{ingest}/dagRuns/{waiting['dag_run_id']}", {"state": "failed"})
    reconciler.delete_run(ingest, waiting["dag_run_id"])
    reconciler.delete_run(ingest, waiting["dag_run_id"])  # gone already: as good as removed
    land_month(storage=sources.storage, partition="2013-02", max_flights=3000)
    publish_by_hand(sources.storage, "2013-02")


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_lost_events_are_found_and_made_good(deployment: Deployment) -> None:
    sources = sources_of(deployment)
    api = api_of(sources)
    lose_by_a_pause(sources, deployment)

    lost = progress_of("2013-01", sources).stuck
    assert lost is not None
    assert (lost.reason, lost.is_repairable) == (Reason.EVENT_LOST, True)
    (started,) = repair(sources).started
    assert (started.dag_id, started.partition) == (MATERIALIZE, "2013-01")
    assert repair(sources).started == ()
    wait_until(lambda: progress_of("2013-01", sources).is_closed)
    assert [run["dag_run_id"] for run in api.dag_runs([MATERIALIZE], max_runs=5)] == [started.run_id]

    # The reconciler's own user may do that, and no more than it needs.
    password = deployment.secrets.reconciler_password
    reconciler = AirflowApi(base_url=deployment.airflow_url, username="reconciler", password=password)
    with pytest.raises(ServiceError, match="403"):
        reconciler.get("connections")
    lose_by_hand(sources, reconciler)
    assert progress_of("2013-02", sources).stuck is not None

    # This time by the Dag, which looks at a real clock.
    api.patch("dags/reconcile", {"is_paused": False})
    wait_until(lambda: bool(sources.ledger.entries(MODEL, "reconcile")[1:]) or press(api))
    wait_until(lambda: progress_of("2013-02", sources).is_closed)

    entries = sources.ledger.entries(MODEL, "reconcile")
    assert [entry.subject for entry in entries] == ["2013-01", "2013-02"]
    assert entries[1].actor.startswith("reconcile:")
    alerts = [entry.evidence["text"] for entry in sources.ledger.entries(MODEL, "alert")]
    assert any("2013-02" in text and "the reconciler started" in text for text in alerts)
    closed = [event["partition_key"] for event in api.asset_events(f"{MODEL}.closed")]
    assert closed == ["2013-01", "2013-02"]
    looked = command_line("reconcile", MODEL, "--dry-run", "--json", "--home", str(deployment.home.root))
    assert json.loads(looked)["planned"] == []

    # Retention has everything that it needs, and nothing is old enough to go.
    api.patch("dags/retain", {"is_paused": False})
    wait_until(lambda: any(run["state"] == "success" for run in api.dag_runs(["retain"], max_runs=5)))
    (passed,) = [run for run in api.dag_runs(["retain"], max_runs=5) if run["state"] == "success"]
    found = api.get(f"dags/retain/dagRuns/{passed['dag_run_id']}/taskInstances/retain/xcomEntries/return_value")
    assert found["value"] == {"removed": {}, "planned": {}, "unreadable": {}, "num_upkeep_runs": 0}


def press(api: AirflowApi) -> bool:
    """Trigger the reconciler unless it is at work, and wait a little; return False, so that one may wait for it."""
    if not [run for run in api.dag_runs(["reconcile"], max_runs=5) if run["state"] in ("queued", "running")]:
        api.post("dags/reconcile/dagRuns", {"logical_date": None, "conf": {}})
    time.sleep(5)
    return False
