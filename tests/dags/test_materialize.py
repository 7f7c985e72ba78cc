from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import PartitionedAssetTimetable

from operators.assets import dataset_asset, features_asset

if TYPE_CHECKING:
    from airflow.sdk import DAG

PATH = Path(__file__).parents[2] / "dags" / "materialize.py"


@pytest.fixture(scope="module")
def dag() -> DAG:
    found = importlib.util.spec_from_file_location("materialize", PATH)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.materialize_flight_delays


def test_one_run_at_a_time_by_the_datasets_partitions(dag: DAG) -> None:
    assert isinstance(dag.timetable, PartitionedAssetTimetable)
    assert dag.timetable.asset_condition == dataset_asset("flight_delays")
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    assert dag.doc_md is not None
    assert "**If it fails**" in dag.doc_md


def test_tasks_run_in_order_and_the_last_one_publishes(dag: DAG) -> None:
    order = ["build_features", "materialize_features", "check_parity"]
    assert [task.task_id for task in dag.topological_sort()] == order
    assert [task.outlets for task in dag.topological_sort()] == [[], [], [features_asset("flight_delays")]]
    for task in dag.tasks:
        assert task.retries
        assert task.execution_timeout is not None
        assert task.owner == "ml-platform"
