from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

from include.errors import BadInputError, DataQualityError, PartitionError, SchemaError, ServiceError
from include.spec import load_spec
from operators.assets import dataset_asset
from operators.retries import retry_args

if TYPE_CHECKING:
    from airflow.sdk import DAG

FILE = Path(__file__).parents[2] / "dags" / "ingest.py"

# Everything that a Dag file may expect to be loaded is loaded first; what remains is the price of this file.
PARSE = """
import importlib.util, json, sys, time
import airflow.sdk, airflow.triggers.base
from airflow.sdk import DAG, Asset, BaseHook, BaseOperator, BaseSensorOperator, CronPartitionTimetable, RetryRule
started = time.process_time()  # of this process: the tests of a busy machine say nothing by the wall clock
spec = importlib.util.spec_from_file_location("ingest_dag", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
seconds = time.process_time() - started
heavy = {"torch", "mlflow", "feast", "evidently", "great_expectations", "pandas", "numpy", "pyarrow", "duckdb"}
print(json.dumps({"seconds": seconds, "heavy": sorted(heavy & set(sys.modules))}))
"""


@pytest.fixture(scope="module")
def dag() -> DAG:
    bag = DagBag(dag_folder=FILE, bundle_path=FILE.parents[1])
    assert bag.import_errors == {}
    return bag.dags["ingest_flight_delays"]


def test_the_file_loads_fast_and_nothing_heavy() -> None:
    def parse() -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PARSE, str(FILE)],
            check=True,
            capture_output=True,
            text=True,
            cwd=FILE.parents[1],
            env={**os.environ, "PYTHONPATH": str(FILE.parents[1])},
        )
        return json.loads(done.stdout.splitlines()[-1])

    found = min((parse() for _ in range(2)), key=lambda each: each["seconds"])
    assert found["heavy"] == []
    assert found["seconds"] < 0.3


def test_the_tasks_follow_each_other(dag: DAG) -> None:
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == {
        "wait": {"ingest"},
        "ingest": {"validate"},
        "validate": set(),
    }
    assert dag.get_task("validate").outlets == [dataset_asset("flight_delays")]
    assert dag.get_task("validate").inlets == [dataset_asset("flight_delays")]
    for task in dag.tasks:
        assert task.retries == 5
        assert task.execution_timeout > timedelta(0)
        assert task.owner == load_spec("flight_delays").owner


def test_every_month_of_the_source_has_one_run(dag: DAG) -> None:
    from airflow.timetables.base import TimeRestriction

    scheduled = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    restriction = TimeRestriction(dag.start_date, dag.end_date, catchup=True)
    runs, info = [], None
    while info := scheduled.timetable.next_dagrun_info_v2(last_dagrun_info=info, restriction=restriction):
        runs.append((info.partition_key, info.run_after))
    assert [key for key, _ in runs] == [f"2013-{month:02d}" for month in range(1, 13)]
    assert runs[0][1] == datetime(2013, 2, 1, 5, tzinfo=UTC)
    assert runs[-1][1] == datetime(2014, 1, 1, 5, tzinfo=UTC)
    assert dag.catchup
    assert dag.max_active_runs >= 12


def test_waiting_starts_in_the_triggerer(dag: DAG) -> None:
    wait = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("wait")
    assert wait.start_from_trigger is True
    assert wait.start_trigger_args.timeout == timedelta(days=7)


def test_the_docs_link_needs_no_plugin(dag: DAG) -> None:
    validate = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("validate")
    assert [link.name for link in validate.operator_extra_links] == ["Data Docs"]


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (BadInputError, "fail"),
        (SchemaError, "fail"),
        (PartitionError, "fail"),
        (DataQualityError, "fail"),
        (ServiceError, "default"),
        (OSError, "default"),
    ],
)
def test_only_failures_of_machines_are_tried_again(error: type[Exception], action: str) -> None:
    policy = retry_args(execution_timeout=timedelta(minutes=1))["retry_policy"]
    assert policy.evaluate(error("broken"), try_number=1, max_tries=3).action.value == action
