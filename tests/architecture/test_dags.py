"""What Tradewind's own Dag files declare beyond the rules of the test kit's plugin, which checks them too."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

import pytest
from airflow.sdk import DAG

from include.spec import model_names

ROOT = Path(__file__).parents[2]
DAG_FILES = sorted(path for path in (ROOT / "dags").glob("*.py") if path.stem != "broken_specs")  # holds no Dag
MAX_LINES = 120
UPKEEP = {"reconcile", "retain", "sweep"}  # one Dag looks after all models
HEADINGS = ("What", "When", "In", "Out", "If it fails")


@cache
def dags_of(path: Path) -> dict[str, DAG]:
    """Return the Dags that a file puts into its globals."""
    spec = importlib.util.spec_from_file_location(f"dags_under_test_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {value.dag_id: value for value in vars(module).values() if isinstance(value, DAG)}


def all_dags() -> list[DAG]:
    return [dag for path in DAG_FILES for dag in dags_of(path).values()]


def calls_of_dag(path: Path) -> list[set[str | None]]:
    """Return the keywords of each call of `DAG` in a file."""
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [{word.arg for word in call.keywords} for call in calls if ast.unparse(call.func) == "DAG"]


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_a_file_has_one_stage_of_every_model_or_one_dag_for_all(path: Path) -> None:
    of_models = {f"{path.stem}_{model}" for model in model_names()}
    assert set(dags_of(path)) == (of_models if "build_model_dags" in path.read_text() else {path.stem})


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
def test_a_file_imports_airflow_by_its_sdk(path: Path) -> None:
    modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    airflows = {name for name in modules if name and name.partition(".")[0] == "airflow"}
    assert all(name.startswith(("airflow.sdk", "airflow.providers.")) for name in airflows)


@pytest.mark.parametrize("dag", all_dags(), ids=lambda dag: dag.dag_id)
def test_a_dag_documents_itself(dag: DAG) -> None:
    for heading in HEADINGS:
        assert f"**{heading}" in dag.doc_md, f"{dag.dag_id} does not say: {heading}"
    assert dag.tags


@pytest.mark.parametrize("dag", all_dags(), ids=lambda dag: dag.dag_id)
def test_params_have_types(dag: DAG) -> None:
    for name in dag.params:
        declared = dag.params.get_param(name)
        assert {"type", "enum"} & set(declared.schema), f"{dag.dag_id}: {name} has no type"


@pytest.mark.parametrize("dag", [dag for dag in all_dags() if "_" in dag.dag_id], ids=lambda dag: dag.dag_id)
def test_a_models_task_that_fails_tells_its_channel(dag: DAG) -> None:
    for task in dag.tasks:
        assert task.on_failure_callback, f"{task.task_id}: use alert_on_failure in default_args"
