"""The example Dag on real months, each task through Airflow's own task runner."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.demo.flights import month_files
from include.testing.dags import run_dag

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from include.testing.workbench import Workbench

REPO = Path(__file__).parents[2]
PATH = REPO / "dags/examples/late_carriers.py"
MODEL = "flight_delays"
MONTH = "2013-01"


@pytest.fixture(scope="module")
def dag() -> DAG:
    found = importlib.util.spec_from_file_location("late_carriers", PATH)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.dag


def test_a_landed_month_is_brought_in_and_judged(dag: DAG, workbench: Workbench) -> None:
    workbench.land(MODEL, MONTH, month_files(MONTH, max_flights=600))
    results = run_dag(dag, supervisor=workbench.supervisor, partition=MONTH, conf={"max_late_frac": 0.25})
    assert {name: result.state for name, result in results.items()} == dict.fromkeys(dag.task_ids, "success")
    worst = results["worst_carriers"].returned()
    assert "EV" in worst
    assert "AA" not in worst
    assert results["tell"].returned() == f"Late: {' '.join(worst)}"
    (published,) = results["validate"].asset_events
    assert (published.name, published.partition_key) == (f"{MODEL}.dataset", MONTH)


def test_no_news_is_not_told(dag: DAG, workbench: Workbench) -> None:
    workbench.land(MODEL, MONTH, month_files(MONTH, max_flights=200))
    results = run_dag(dag, supervisor=workbench.supervisor, partition=MONTH, conf={"max_late_frac": 1.0})
    assert (results["worst_carriers"].state, results["tell"].state) == ("success", "skipped")


def test_a_month_that_is_no_month_runs_nothing_else(dag: DAG, workbench: Workbench) -> None:
    results = run_dag(dag, supervisor=workbench.supervisor, partition="2013-13")
    assert results["landed"].state == "failed"
    assert {result.state for name, result in results.items() if name != "landed"} == {"upstream_failed"}


def test_examples_are_short_and_seen_on_wish_only() -> None:
    assert "dags/examples/" in (REPO / ".airflowignore").read_text().splitlines()
    for path in PATH.parent.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40
