"""The operators of `reconcile` and `retain`: their connections, and what they tell."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from include.errors import ServiceError
from include.lake.tables import write_partition
from include.spec import load_spec
from operators.reconcile_models import ReconcileModelsOperator
from operators.retain_models import RetainModelsOperator
from tests.fake_airflow import PASSWORD, FakeAirflow, fake_airflow
from tests.running import MODEL, RolloutWorld

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

    from include.lake.storage import Storage
    from tests.fakes import FakeSlack

CONTEXT: Context = {"run_id": "r1"}


@pytest.fixture
def airflow(rollout_world: RolloutWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAirflow]:
    with fake_airflow(MODEL) as fake:
        monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API_DEFAULT", connection(fake.base_url))
        yield fake


def connection(base_url: str, **more: Any) -> str:
    port = int(base_url.rpartition(":")[2])
    fields = {"conn_type": "http", "host": "127.0.0.1", "port": port, "login": "reconciler", "password": PASSWORD}
    return json.dumps(fields | more)


def reconcile(*, dry_run: str = "False") -> dict[str, Any]:
    return ReconcileModelsOperator(task_id="reconcile", model=MODEL, dry_run=dry_run).execute(CONTEXT)


def test_what_is_stuck_is_posted_once(
    airflow: FakeAirflow, storage: Storage, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    posts = {"conn_type": "slack", "password": slack.token, "extra": {"base_url": slack.base_url}}
    monkeypatch.setenv("AIRFLOW_CONN_SLACK_DEFAULT", json.dumps(posts))
    for table in load_spec(MODEL).source.tables:
        uri = storage.table(MODEL, table)
        write_partition(uri=uri, table=pa.table({"value": [1]}), partition="2013-01", storage_options={})
    failed_at = datetime.now(UTC) + timedelta(seconds=1)
    airflow.add_run(f"materialize_{MODEL}", "2013-01", "failed", at=failed_at.isoformat())

    only_looked = reconcile(dry_run="True")
    assert (slack.messages, only_looked["started"]) == ([], [])
    # It ended a second from now: let that second pass, or the run is not late yet.
    airflow.runs[0]["end_date"] = (failed_at - timedelta(seconds=2)).isoformat()
    first, second = reconcile(), reconcile()

    assert first == second
    assert [(found["partition"], found["reason"]) for found in first["stuck"]] == [("2013-01", "task failed")]
    (message,) = slack.messages
    assert "2013-01 is stuck before materialized" in message["text"]


def test_a_refused_login_fails_the_task(airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API_DEFAULT", connection(airflow.base_url, password="wrong"))

    with pytest.raises(ServiceError, match="401"):
        reconcile()


def test_retention_finds_nothing_old_and_says_so(airflow: FakeAirflow) -> None:
    found = RetainModelsOperator(task_id="retain", model=MODEL).execute(CONTEXT)

    assert found == {"removed": {}, "planned": {}, "unreadable": {}, "num_upkeep_runs": 0}


def test_runs_of_the_reconciler_go_after_a_week(airflow: FakeAirflow) -> None:
    now = datetime.now(UTC)
    for days, state in ((6, "success"), (8, "success"), (8, "running")):
        airflow.add_run("reconcile", "", state, at=(now - timedelta(days=days)).isoformat())

    def retain(*, dry_run: bool) -> dict[str, Any]:
        return RetainModelsOperator(task_id="retain", model=MODEL, dry_run=dry_run).execute(CONTEXT)

    assert retain(dry_run=True)["num_upkeep_runs"] == 0
    assert retain(dry_run=False)["num_upkeep_runs"] == 1
    assert [run["dag_run_id"] for run in airflow.runs] == ["r0", "r2"]


def test_retention_leaves_a_model_alone_whose_servers_are_silent(
    airflow: FakeAirflow, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = {"conn_type": "http", "host": "127.0.0.1", "port": free_port}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(away))

    found = RetainModelsOperator(task_id="retain", model=MODEL, dry_run="True").execute(CONTEXT)

    assert "MLflow" in found["unreadable"][MODEL]
