"""Rule 6 of the style: what every Dag file declares."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import DAG

from include.spec import model_names

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

ROOT = Path(__file__).parents[2]
DAG_FILES = sorted((ROOT / "dags").glob("*.py"))
MAX_LINES = 120
HEADINGS = ("What", "When", "In", "Out", "If it fails")
FORBIDDEN_AT_PARSE_TIME = {"Variable", "Connection", "environ", "getenv", "now", "today", "utcnow"}
# A person's answer has its own deadline; Airflow would kill the waiting task by this one.
WAITS_FOR_A_PERSON = {"ApprovalOperator", "HITLOperator", "HITLEntryOperator", "HITLBranchOperator"}


@cache
def dags_of(path: Path) -> dict[str, DAG]:
    """Return the Dags that a file puts into its globals."""
    spec = importlib.util.spec_from_file_location(f"dags_under_test_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {value.dag_id: value for value in vars(module).values() if isinstance(value, DAG)}


def tasks() -> list[BaseOperator]:
    return [task for path in DAG_FILES for dag in dags_of(path).values() for task in dag.tasks]


def all_dags() -> list[DAG]:
    return [dag for path in DAG_FILES for dag in dags_of(path).values()]


def calls_of_dag(path: Path) -> list[set[str | None]]:
    """Return the keywords of each call of `DAG` in a file."""
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [{word.arg for word in call.keywords} for call in calls if ast.unparse(call.func) == "DAG"]


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_a_file_has_one_stage_of_every_model(path: Path) -> None:
    assert set(dags_of(path)) == {f"{path.stem}_{model}" for model in model_names()}


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_a_file_says_what_decides_over_runs(path: Path) -> None:
    calls = calls_of_dag(path)
    assert calls
    for keywords in calls:
        assert {"schedule", "start_date", "catchup", "max_active_runs", "doc_md"} <= keywords


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_a_file_reads_nothing_at_parse_time(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not (names | attributes) & FORBIDDEN_AT_PARSE_TIME


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_a_file_imports_airflow_by_its_sdk(path: Path) -> None:
    modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    airflows = {name for name in modules if name and name.partition(".")[0] == "airflow"}
    assert all(name.startswith(("airflow.sdk", "airflow.providers.")) for name in airflows)


@pytest.mark.parametrize("dag", all_dags(), ids=lambda dag: dag.dag_id)
def test_a_dag_documents_itself(dag: DAG) -> None:
    assert dag.doc_md
    for heading in HEADINGS:
        assert f"**{heading}" in dag.doc_md, f"{dag.dag_id} does not say: {heading}"
    assert dag.start_date is not None
    assert dag.start_date.tzinfo is not None
    assert dag.tags


@pytest.mark.parametrize("dag", all_dags(), ids=lambda dag: dag.dag_id)
def test_params_are_a_form(dag: DAG) -> None:
    for name, param in dag.params.items():
        declared = dag.params.get_param(name)
        assert declared.description, f"{dag.dag_id}: {name} has no description"
        assert {"type", "enum"} & set(declared.schema), f"{dag.dag_id}: {name} has no type; got {param!r}"


@pytest.mark.parametrize("task", tasks(), ids=lambda task: f"{task.dag.dag_id}.{task.task_id}")
def test_a_task_retries_ends_and_tells(task: BaseOperator) -> None:
    assert task.retries >= 1
    assert task.execution_timeout is not None or task.task_type in WAITS_FOR_A_PERSON
    assert task.on_failure_callback, "use operators.notifiers.slack.alert_on_failure in default_args"
