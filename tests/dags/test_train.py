from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import PartitionedAssetTimetable, TriggerRule

from include.errors import SetupError
from include.spec import load_spec
from include.training.job import OVERRIDABLE
from operators.assets import challenger_asset, closed_asset, retrain_asset

if TYPE_CHECKING:
    from types import ModuleType

    from airflow.sdk import DAG

PATH = Path(__file__).parents[2] / "dags" / "train.py"
SPEC = load_spec("flight_delays")


@pytest.fixture(scope="module")
def module() -> ModuleType:
    found = importlib.util.spec_from_file_location("train", PATH)
    assert found is not None
    assert found.loader is not None
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def dag(module: ModuleType) -> DAG:
    return module.train_flight_delays


def test_one_training_at_a_time_when_monitoring_asks(dag: DAG) -> None:
    assert isinstance(dag.timetable, PartitionedAssetTimetable)
    assert dag.timetable.asset_condition == retrain_asset("flight_delays")
    assert (dag.max_active_runs, dag.catchup) == (1, False)


def test_tasks_run_in_order_and_a_version_is_announced_or_the_month_is_closed(dag: DAG) -> None:
    order = ["snapshot", "train", "evaluate", "compress", "register", "closed", "ended"]
    assert sorted(order, key=[task.task_id for task in dag.topological_sort()].index)[:4] == order[:4]
    assert {task.task_id for task in dag.leaves} == {"closed", "ended"}
    assert dag.get_task("register").outlets == [challenger_asset("flight_delays")]
    closed = dag.get_task("closed")
    assert isinstance(closed, EmptyOperator)
    assert closed.outlets == [closed_asset("flight_delays")]
    assert closed.trigger_rule == TriggerRule.ALL_SKIPPED
    assert closed.upstream_task_ids == {"register"}
    ended = dag.get_task("ended")  # so that a run whose training failed is red
    assert (ended.trigger_rule, ended.upstream_task_ids) == (TriggerRule.NONE_FAILED, {"register"})


def overrides(dag: DAG, **changes: Any) -> dict[str, Any]:
    """Return what the train task gets from the form."""
    params = {name: dag.params[name] for name in dag.params} | changes
    return json.loads(jinja2.Environment().from_string(dag.get_task("train").overrides).render(params=params))


def test_an_empty_form_overrides_nothing(dag: DAG) -> None:
    assert set(overrides(dag).values()) == {None}
    assert set(overrides(dag)) - {"seed"} <= set(OVERRIDABLE)


def test_a_form_reaches_the_trainer(dag: DAG) -> None:
    assert overrides(dag, learning_rate=0.01, seed=0)["learning_rate"] == 0.01
    assert overrides(dag, learning_rate=0.01, seed=0)["seed"] == 0


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", 0), ("dropout", 0.95), ("max_epochs", 0), ("window_partitions", 1.5)]
)
def test_the_form_refuses_what_the_spec_would(dag: DAG, name: str, value: float) -> None:
    from copy import copy

    param = copy(dag.params.get_param(name))
    with pytest.raises(Exception, match="Failed validating"):
        param.resolve(value)


RUNNERS = {
    "local": ("TrainModelOperator", {}),
    "kubernetes": ("GpuTrainingPodOperator", {"launcher": "python"}),
    "torchrun": ("GpuTrainingPodOperator", {"launcher": "torchrun"}),
    "trainjob": ("DistributedTrainingOperator", {"kind": "trainjob"}),
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_spec_or_the_setting_decides_where_to_train(
    module: ModuleType, dag: DAG, runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = SPEC.training.model_copy(update={"runner": runner})
    by_spec = module.build(SPEC.model_copy(update={"training": training})).get_task("train")
    monkeypatch.setenv("AIRFLOW__TRADEWIND__TRAINING_RUNNER", runner)
    by_setting = module.build(SPEC).get_task("train")
    kind, fields = RUNNERS[runner]
    local = dag.get_task("train")
    for task in (by_spec, by_setting):
        assert task.task_type == kind
        assert {name: getattr(task, name) for name in fields} == fields
        assert (task.model, task.overrides) == (local.model, local.overrides)
        assert [each.task_id for each in task.dag.topological_sort()] == [t.task_id for t in dag.topological_sort()]


def test_a_profile_of_several_pods_makes_torchrun_a_job(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__TRADEWIND__TRAINING_RUNNER", "torchrun")
    monkeypatch.setenv("AIRFLOW__TRADEWIND__TRAINING_PROFILE", "gpu_2x4")
    task = module.build(SPEC).get_task("train")
    assert (task.task_type, task.kind, task.profile) == ("DistributedTrainingOperator", "job", "gpu_2x4")
    monkeypatch.setenv("AIRFLOW__TRADEWIND__TRAINING_RUNNER", "kubernets")
    with pytest.raises(SetupError, match=r"training_runner must be one of local, kubernetes, .*; got 'kubernets'"):
        module.build(SPEC)
