from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from include.retraining.decision import Verdict
from operators.assets import closed_asset, features_asset, retrain_asset

if TYPE_CHECKING:
    from airflow.sdk import DAG

MODEL = "flight_delays"


@pytest.fixture(scope="module")
def dag() -> DAG:
    path = Path(__file__).parents[2] / "dags" / "monitor.py"
    spec = importlib.util.spec_from_file_location("monitor_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: DAG = module.monitor_flight_delays
    return found


def decision(verdict: str) -> dict[str, Any]:
    return {"model": MODEL, "partition": "2013-06", "verdict": verdict, "reasons": ["r"], "ledger_seq": 7}


def publish(dag: DAG, task_id: str, verdict: str) -> dict[str, Any]:
    """Run a publishing task and return what its event carries."""
    task = dag.get_task(task_id)
    (asset,) = task.outlets
    events = {asset: SimpleNamespace(extra=None)}
    task.python_callable(decision(verdict), outlet_events=events)
    return events[asset].extra


def test_features_start_it_and_exactly_two_assets_leave_it(dag: DAG) -> None:
    assert dag.timetable.asset_condition == features_asset(MODEL)
    outlets = {task.task_id: task.outlets for task in dag.tasks if task.outlets}
    assert outlets == {"publish_retrain": [retrain_asset(MODEL)], "publish_closed": [closed_asset(MODEL)]}


def test_every_verdict_is_followed_by_exactly_one_event(dag: DAG) -> None:
    follow = dag.get_task("decide").follow
    assert set(follow) == set(Verdict)
    for verdict in Verdict:
        published = [task_id for task_id in follow[verdict] if task_id.startswith("publish_")]
        assert published == ["publish_retrain" if verdict.is_training else "publish_closed"]
        assert set(follow[verdict]) <= dag.get_task("decide").downstream_task_ids


def test_only_drift_is_reported_and_no_event_waits_for_it(dag: DAG) -> None:
    follow = dag.get_task("decide").follow
    assert [verdict for verdict in Verdict if "report" in follow[verdict]] == [Verdict.RETRAIN]
    assert dag.get_task("report").downstream_task_ids == set()
    assert dag.get_task("publish_retrain").upstream_task_ids == {"decide"}


@pytest.mark.parametrize("verdict", list(Verdict))
def test_an_event_carries_the_decision_or_is_not_sent(dag: DAG, verdict: Verdict) -> None:
    called, other = (
        ("publish_retrain", "publish_closed") if verdict.is_training else ("publish_closed", "publish_retrain")
    )
    assert publish(dag, called, verdict) == {
        "model": MODEL,
        "partition": "2013-06",
        "verdict": verdict,
        "ledger_seq": 7,
    }
    # A person may clear one task alone: it must not contradict the decision.
    with pytest.raises(AirflowSkipException, match=f"{verdict}: no event of"):
        publish(dag, other, verdict)
