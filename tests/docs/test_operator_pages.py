"""Each operator and sensor has a page that names all of it, and whose example is a Dag."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG, BaseOperator

from include.testing.dag_files import parse_dag_files
from include.testing.dag_rules import DAG_RULES, FILE_RULES, Limits
from include.testing.supervisor import FakeSupervisor
from include.testing.tasks import run_task

if TYPE_CHECKING:
    from include.testing.dag_files import DagFileFacts

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "pages" / "operators"
BASES = {
    "PartitionOperator",
    "RemoteTrainingOperator",
    "RolloutOperator",
    "UpkeepOperator",
}  # extended, never used by themselves: the index shows them
BEFORE = {"job_uri": "jobs/1/job.json", "may_continue": True, "package_uri": "packages/1"}
"""What the tasks before the one shown have returned, as far as it looks."""

SECTIONS = ("**Templated fields:**", "## Killed, timed out, cleared", "## Example")


def classes() -> dict[str, type[BaseOperator]]:
    """Return module -> the operator or sensor that it defines."""
    found: dict[str, type[BaseOperator]] = {}
    for path in [*(ROOT / "operators").glob("*.py"), *(ROOT / "sensors").glob("*.py")]:
        for name in re.findall(r"^class (\w+(?:Operator|Sensor))\(", path.read_text(), flags=re.MULTILINE):
            if name not in BASES:
                module = importlib.import_module(f"{path.parent.name}.{path.stem}")
                found[path.stem] = getattr(module, name)
    return found


CLASSES = classes()


def page(module: str) -> str:
    return (PAGES / f"{module}.md").read_text()


def example(module: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", page(module), flags=re.DOTALL)
    return str(code)


def own_classes(kind: type[BaseOperator]) -> list[type]:
    """Return a class and those of its bases that this repository defines."""
    return [base for base in kind.__mro__ if base.__module__.partition(".")[0] in ("operators", "sensors")]


def own_parameters(kind: type[BaseOperator]) -> set[str]:
    """Return the keyword arguments that a class declares, itself or by a base in this repository."""
    given = [parameter for base in own_classes(kind) for parameter in inspect.signature(base).parameters.values()]
    return {parameter.name for parameter in given if parameter.kind is parameter.KEYWORD_ONLY}


def test_each_page_has_its_class() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} - {"index"} == set(CLASSES)


@pytest.mark.parametrize("module", CLASSES)
def test_a_page_names_every_parameter_and_template(module: str) -> None:
    kind, text = CLASSES[module], page(module)
    assert text.startswith(f"# {kind.__name__}\n")
    assert f"::: {kind.__module__}.{kind.__name__}" in text
    for section in SECTIONS:
        assert section in text
    (line,) = re.findall(r"^\*\*Templated fields:\*\*.*$", text, flags=re.MULTILINE)
    inherited = KubernetesPodOperator.template_fields if issubclass(kind, KubernetesPodOperator) else ()
    assert set(re.findall(r"`(\w+)`", line)) - {"KubernetesPodOperator"} == set(kind.template_fields) - set(inherited)
    # The site shows the docstrings of the class and, where it passes arguments on, of its base.
    shown = "\n".join(inspect.getdoc(base) or "" for base in own_classes(kind))
    described = set(re.findall(r"^    (\w+): ", shown, flags=re.MULTILINE))
    assert own_parameters(kind) - described == set()


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DagFileFacts]:
    """Parse all examples as Airflow does."""
    folder = tmp_path_factory.mktemp("dags")
    files = {module: folder / f"{module}.py" for module in CLASSES}
    for module, path in files.items():
        path.write_text(example(module))
    parsed = parse_dag_files(list(files.values()), root=ROOT)
    return {module: parsed[path] for module, path in files.items()}


@pytest.mark.parametrize("module", CLASSES)
def test_an_example_keeps_every_rule(facts: dict[str, DagFileFacts], module: str) -> None:
    found = facts[module]
    limits = Limits(max_parse_s=5)  # of KubernetesPodOperator's, not of ours
    assert [problem for rule in FILE_RULES.values() for problem in rule(found, limits, [found])] == []
    (dag,) = found.dags
    assert [problem for rule in DAG_RULES.values() for problem in rule(dag)] == []
    assert CLASSES[module].__name__ in {task.type for task in dag.tasks}


@pytest.mark.parametrize("module", CLASSES)
def test_an_example_runs_until_it_asks_for_what_is_not_there(module: str) -> None:
    """Its templates are rendered and its code is reached: without connections it ends with the first that it needs."""
    names: dict[str, Any] = {}
    exec(compile(example(module), f"{module}.md", "exec"), names)
    (dag,) = [value for value in names.values() if isinstance(value, DAG)]
    (task,) = [task for task in dag.tasks if task.task_type == CLASSES[module].__name__]
    supervisor = FakeSupervisor(
        xcoms={(dag.dag_id, "run-1", task_id, "return_value", -1): BEFORE for task_id in ("train", *dag.task_ids)}
    )
    result = run_task(task, partition="2013-03", supervisor=supervisor, trigger_timeout_s=20)
    assert set(result.rendered) >= set(CLASSES[module].template_fields) - set(KubernetesPodOperator.template_fields)
    assert result.state in ("up_for_retry", "failed", "skipped"), result.log
    assert "isn't defined" in f"{result.error}{result.log}" or result.state == "skipped", result.log
