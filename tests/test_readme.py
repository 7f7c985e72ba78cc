"""What the README promises can be done as it is written there."""

import re
from pathlib import Path

REPO = Path(__file__).parents[1]
README = (REPO / "README.md").read_text()


def test_the_example_dag_is_one() -> None:
    from airflow.sdk import DAG

    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    (dag,) = [value for value in names.values() if isinstance(value, DAG)]
    assert [task.task_id for task in dag.topological_sort()] == ["wait", "ingest", "validate"]


def test_each_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, flags=re.MULTILINE))
    assert {"demo", "up", "test"} <= named <= targets


def test_each_named_path_exists() -> None:
    named = re.findall(r"`((?:include|operators|sensors|plugins|dags|tests|docker|benchmarks)/[\w./]*)`", README)
    assert [path for path in named if not (REPO / path).exists()] == []


def test_each_operator_and_sensor_is_listed() -> None:
    sources = [*(REPO / "operators").glob("*.py"), *(REPO / "sensors").glob("*.py")]
    defined = {
        n for path in sources for n in re.findall(r"^class (\w+(?:Operator|Sensor))\(", path.read_text(), re.MULTILINE)
    }
    assert {name for name in defined if f"`{name}`" not in README} == set()
