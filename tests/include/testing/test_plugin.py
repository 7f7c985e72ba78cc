"""The plugin on a folder of Dag files of which each one but the first breaks the rules that it is named after."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from include.errors import SetupError
from include.testing.dag_files import parse_dag_files

REPO = Path(__file__).parents[3]
GOOD = '''"""A Dag that keeps every rule."""
from datetime import UTC, datetime, timedelta
from airflow.sdk import DAG, Param, task

with DAG(
    "good",
    schedule=None,
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    doc_md=__doc__,
    params={"day": Param("1", type="string", description="Which day.")},
    default_args={"retries": 1, "execution_timeout": timedelta(minutes=1)},
):
    @task
    def late() -> str:
        import pydoc_data.topics
        from airflow.sdk import Variable
        return f"{Variable.get('at_run_time_this_is_fine')} {datetime.now(UTC)}"
    late()
'''
BROKEN = "import no_such_module\n"
HEAVY = GOOD.replace('"good"', '"heavy"').replace("with DAG(", "import pydoc_data.topics\nwith DAG(", 1)
SLOW = GOOD.replace('"good"', '"slow"').replace(
    "with DAG(", "sum(number for number in range(80_000_000))\nwith DAG(", 1
)
READS = GOOD.replace('"good"', '"reads"').replace(
    "with DAG(",
    "from airflow.sdk import BaseHook, Variable\n"
    "Variable.get('asked', default='x')\n"
    "try:\n    BaseHook.get_connection('lake')\nexcept Exception:\n    pass\nTODAY = datetime.now(UTC)\nwith DAG(",
    1,
)
BARE = """from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param
with DAG("bare", schedule=None, params={"day": Param("1", type="string")}):
    EmptyOperator(task_id="t")
"""
FILES = {
    "good.py": GOOD,
    "twin.py": GOOD,
    "broken.py": BROKEN,
    "heavy.py": HEAVY,
    "slow.py": SLOW,
    "reads.py": READS,
    "nested/bare.py": BARE,
}
SETTINGS = "[pytest]\ntradewind_heavy = pydoc_data\ntradewind_max_parse_s = 0.4\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run the plugin as an author does, and return what it prints."""
    root = tmp_path_factory.mktemp("author")
    for name, text in FILES.items():
        path = root / "dags" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "test_nothing.py").write_text("def test_that_is_not_asked_for(): ...\n")
    (root / "pytest.ini").write_text(SETTINGS)
    command = [sys.executable, "-m", "pytest", "-p", "include.testing.plugin", "-v", "--tradewind-dags", "dags"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=root,
        env={"PYTHONPATH": str(REPO), "PATH": "/usr/bin"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_each_file_and_dag_and_rule_is_a_test_of_its_own(report: str) -> None:
    failed = set(re.findall(r"^FAILED (\S+)", report, flags=re.MULTILINE))
    assert failed == {
        "dags/broken.py::imports",
        "dags/good.py::unique_ids",
        "dags/twin.py::unique_ids",
        "dags/heavy.py::light",
        "dags/slow.py::quick",
        "dags/reads.py::reads_nothing",
        *(f"dags/nested/bare.py::{rule}[bare]" for rule in ("documented", "start_date", "retries", "timeouts")),
    }
    num_checks = 5 * len(FILES) + 4 * (len(FILES) - 1)
    assert f"{len(failed)} failed, {num_checks - len(failed)} passed" in report
    assert "test_that_is_not_asked_for" not in report


@pytest.mark.parametrize(
    "said",
    [
        "No module named 'no_such_module'",
        "good is declared in",
        "pydoc_data is loaded while the file is parsed; import it inside the function that uses it",
        "parsing must take at most 0.4 s of CPU beyond Airflow; got",
        "variable 'asked' is looked up while the file is parsed",
        "connection 'lake' is looked up while the file is parsed",
        "reads the clock while the file is parsed",
        "doc_md must say what the Dag does",
        "parameter 'day' must have a description",
        "start_date must be set; got none",
        "task 't' must have at least 1 retry; got 0",
        "task 't' must have an execution_timeout",
    ],
)
def test_a_failure_says_what_to_change(report: str, said: str) -> None:
    assert said in report
    assert "dag_rules.py" not in report  # no traceback into the kit


def test_a_folder_elsewhere_finds_the_operators_and_its_own_modules(tmp_path: Path) -> None:
    (tmp_path / "names_of_the_author.py").write_text('MODEL = "flight_delays"\n')
    path = tmp_path / "dags" / "elsewhere.py"
    path.parent.mkdir()
    late = "from names_of_the_author import MODEL\nfrom sensors.partition_landed import PartitionLandedSensor\n"
    wait = '    PartitionLandedSensor(task_id="wait", model=MODEL)\n'
    path.write_text(GOOD.replace("with DAG(", f"{late}with DAG(", 1) + wait)

    found = parse_dag_files([path], root=tmp_path)[path]

    assert found.errors == ()
    assert [(dag.dag_id, [task.task_id for task in dag.tasks]) for dag in found.dags] == [("good", ["late", "wait"])]


def test_a_file_that_ends_its_process_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ends.py"
    path.write_text("import os\nos._exit(3)\n")
    with pytest.raises(SetupError, match=r"ends\.py must be a file that Python can parse to its end"):
        parse_dag_files([path], root=tmp_path)
