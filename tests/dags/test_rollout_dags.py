"""The wiring of deploy, rollback and score; what their tasks do is tested with the operators."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import PartitionedAssetTimetable

from include.errors import GateError, InconclusiveError, ServiceError
from include.spec import load_spec
from include.testing.supervisor import FakeSupervisor
from include.testing.tasks import run_task
from operators.assets import challenger_asset, champion_asset, closed_asset
from operators.rollouts import ATTEMPTED_VERSION

if TYPE_CHECKING:
    from airflow.sdk import DAG

FOLDER = Path(__file__).parents[2] / "dags"
MODEL = "flight_delays"
SPEC = load_spec(MODEL)


def module_of(stage: str) -> Any:
    found = importlib.util.spec_from_file_location(f"dag_{stage}", FOLDER / f"{stage}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    return {stage: getattr(module_of(stage), f"{stage}_{MODEL}") for stage in ("deploy", "rollback", "score")}


def deploy_with(**rollout: Any) -> DAG:
    spec = SPEC.model_copy(update={"rollout": SPEC.rollout.model_copy(update=rollout)})
    module = module_of("deploy")
    dag: DAG = module.build(spec)
    dag.params.update(module.form(spec))
    return dag


STAGES = ["shadow_settled", "shift_10", "settled_10", "shift_50", "settled_50"]


def test_deploy_runs_for_each_challenger_one_at_a_time(dags: dict[str, DAG]) -> None:
    dag = dags["deploy"]
    assert isinstance(dag.timetable, PartitionedAssetTimetable)
    assert dag.timetable.asset_condition == challenger_asset(MODEL)
    assert dag.max_active_runs == 1


def test_a_challenger_passes_every_stage_before_it_is_promoted(dags: dict[str, DAG]) -> None:
    dag = dags["deploy"]
    order = ["choose", "deploy", *STAGES, "promote"]
    for before, after in pairwise(order):
        assert before in dag.get_task(after).upstream_task_ids
    assert dag.get_task("deploy").rival_task_ids == STAGES  # what a first version skips
    assert dag.get_task("promote").trigger_rule == "none_failed_min_one_success"
    assert [dag.get_task(f"settled_{step}").share_pct for step in (10, 50)] == [10.0, 50.0]


def test_any_task_that_fails_rolls_back(dags: dict[str, DAG]) -> None:
    dag = dags["deploy"]
    roll_back = dag.get_task("roll_back")
    assert (roll_back.trigger_rule, roll_back.scope) == ("one_failed", "challenger")
    assert roll_back.upstream_task_ids == {"choose", "deploy", *STAGES, "promote"}
    assert roll_back.version == ATTEMPTED_VERSION
    assert {task.task_id for task in dag.leaves} == {"ended", "closed", "roll_back"}  # so a run that rolled back is red
    assert dag.get_task("ended").upstream_task_ids == dag.get_task("closed").upstream_task_ids == {"promote"}


def test_each_end_closes_the_partition_once(dags: dict[str, DAG]) -> None:
    outlets = {task.task_id: task.outlets for task in dags["deploy"].tasks if task.outlets}
    assert outlets == {
        "promote": [champion_asset(MODEL), closed_asset(MODEL)],
        "roll_back": [closed_asset(MODEL)],
        "closed": [closed_asset(MODEL)],  # when all was skipped
    }


def event(version: str, *, minute: int) -> dict[str, Any]:
    """Return an event of the challenger asset as Airflow's server describes it."""
    asset = challenger_asset(MODEL)
    source = dict.fromkeys(("source_task_id", "source_dag_id", "source_run_id", "source_map_index"))
    return {
        "asset": {"name": asset.name, "uri": asset.uri, "extra": {}},
        "extra": {"model": MODEL, "version": version, "window": ["2013-01", "2013-03"]},
        "source_aliases": [],
        "timestamp": datetime(2013, 4, 1, 12, minute, tzinfo=UTC),
        **source,
    }


@pytest.mark.parametrize(
    ("conf", "events", "version", "skips"),
    [
        ({}, [event("7", minute=1)], "7", "True"),
        ({}, [event("8", minute=2), event("7", minute=1)], "8", "True"),
        ({}, [], "", "False"),
        ({"version": "5"}, [], "5", "False"),
        ({"version": "5"}, [event("7", minute=1)], "5", "False"),
        ({"force": True}, [event("7", minute=1)], "7", "False"),
    ],
)
def test_a_run_chooses_the_version_of_its_event_unless_a_person_names_one(
    conf: dict[str, Any], events: list[dict[str, Any]], version: str, skips: str
) -> None:
    choose = deploy_with(approval=True).get_task("choose")
    ran = run_task(choose, partition="2013-03", conf=conf, consumed_asset_events=events)
    assert (ran.rendered["version"], ran.rendered["skip_if_superseded"]) == (version, skips)


def test_an_approval_names_the_version_and_what_is_known_of_it() -> None:
    dag = deploy_with(approval=True)
    chosen = {
        "version": "7",
        "champion": "6",
        "window": "2013-01 to 2013-03",
        "gates": ["min_validation_rows pass: 900 held-out rows", "min_loss_gain_vs_baseline pass: 0.2"],
    }
    supervisor = FakeSupervisor(xcoms={(dag.dag_id, "run-1", "choose", "return_value", -1): chosen})
    asked = run_task(dag.get_task("approve"), partition="2013-03", supervisor=supervisor)
    assert asked.state == "awaiting_input", asked.log
    assert asked.rendered["subject"] == "Deploy flight_delays v7?"
    for part in ("Version 7, trained on 2013-01 to 2013-03,", "champion 6", *(f"- {gate}" for gate in chosen["gates"])):
        assert part in asked.rendered["body"]
    deploy = run_task(dag.get_task("deploy"), partition="2013-03", supervisor=supervisor)
    assert deploy.rendered["version"] == "7"


@pytest.mark.parametrize(
    ("error", "action"),
    [(ServiceError, "retry"), (OSError, "default"), (GateError, "fail"), (InconclusiveError, "fail")],
)
def test_a_server_that_restarts_is_no_verdict(dags: dict[str, DAG], error: type[Exception], action: str) -> None:
    for task in dags["deploy"].tasks:
        decision = task.retry_policy.evaluate(error("broken"), try_number=1, max_tries=task.retries)
        assert decision.action.value == action
        if error is ServiceError:
            assert decision.retry_delay * task.retries >= timedelta(minutes=3)
            assert decision.retry_delay <= timedelta(seconds=15)


def test_the_spec_decides_which_stages_exist() -> None:
    dag = deploy_with(strategy="canary", steps_pct=(0.5,), approval=True)
    first = ["choose", "approve", "deploy", "shift_0_5", "settled_0_5"]
    assert [task.task_id for task in dag.topological_sort()][:5] == first
    approve = dag.get_task("approve")
    assert (approve.fail_on_reject, approve.retries, approve.execution_timeout) == (True, 0, None)
    assert "approve" in dag.get_task("roll_back").upstream_task_ids  # a rejection rolls back and closes too
    for task_id in ("deploy", "promote"):
        assert "responded_by_user" in dag.get_task(task_id).approved_by
    shadow = deploy_with(strategy="shadow")
    assert shadow.get_task("promote").upstream_task_ids == {"deploy", "shadow_settled"}
    assert not [task.task_id for task in shadow.tasks if task.task_id.startswith("shift_")]


def test_a_stage_may_take_as_long_as_the_spec_says() -> None:
    settled = deploy_with(step_timeout_s=100).get_task("settled_10")
    assert settled.timeout == settled.execution_timeout.total_seconds() == 400
    held = deploy_with(step_timeout_s=100, on_inconclusive="hold").get_task("settled_10")
    assert held.timeout == 7 * 86400


def test_rollback_is_for_people(dags: dict[str, DAG]) -> None:
    (task,) = dags["rollback"].tasks
    assert (dags["rollback"].schedule, task.scope, task.outlets) == (None, "champion", [champion_asset(MODEL)])
    assert set(dags["rollback"].params) == {"version", "reason"}


def test_score_maps_one_task_to_each_partition(dags: dict[str, DAG]) -> None:
    dag = dags["score"]
    assert [task.task_id for task in dag.topological_sort()] == ["list_partitions", "score"]
    assert dag.get_task("score").is_mapped
    assert dag.get_task("list_partitions").python_callable({"partitions": ["2013-02", "2013-01", "2013-02"]}) == [
        "2013-01",
        "2013-02",
    ]
    for refused in (["2013-13"], [], ["2013-01"] * 121):
        with pytest.raises(ValueError, match="Failed validating"):
            dag.params.get_param("partitions").resolve(refused)


@pytest.mark.parametrize("stage", ["deploy", "rollback"])
@pytest.mark.parametrize("value", ["x", "1 or 2", "-1"])
def test_a_version_is_a_number(dags: dict[str, DAG], stage: str, value: str) -> None:
    param = dags[stage].params.get_param("version")
    with pytest.raises(ValueError, match="does not match"):
        param.resolve(value)
    assert (param.resolve("12"), param.resolve(None)) == ("12", None)
