from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import PartitionedAssetTimetable, TriggerRule

from include.spec import GpuPodSpec, load_spec
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


def test_the_spec_decides_where_to_train(module: ModuleType, dag: DAG) -> None:
    pod = GpuPodSpec(image="trainer:1", schedule_timeout_s=600)
    training = SPEC.training.model_copy(update={"runner": "kubernetes", "pod": pod})
    on_cluster = module.build(SPEC.model_copy(update={"training": training})).get_task("train")
    local = dag.get_task("train")
    assert (local.task_type, on_cluster.task_type) == ("TrainModelOperator", "GpuTrainingPodOperator")
    assert on_cluster.image == "trainer:1"
    assert on_cluster.overrides == local.overrides
    assert on_cluster.execution_timeout.total_seconds() >= SPEC.training.timeout_s + 600
    assert [task.task_id for task in on_cluster.dag.topological_sort()] == [t.task_id for t in dag.topological_sort()]
