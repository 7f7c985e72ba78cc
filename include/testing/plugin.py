"""The pytest plugin of the test kit: `-p include.testing.plugin`, or `pytest_plugins` in a conftest.py.

It checks every file of the folders that `--tradewind-dags` or the setting `tradewind_dags` names, one reported test for
each file or Dag and each rule, and it offers the fixtures `workbench`, `registry`, `storage` and `mlflow_url`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import TradewindError
from include.testing.dag_rules import DAG_RULES, FILE_RULES, HEAVY, Limits
from include.testing.workbench import Workbench, running_mlflow

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from include.lake.storage import Storage
    from include.testing.dag_files import DagFacts, DagFileFacts

_FACTS = pytest.StashKey["dict[Path, DagFileFacts]"]()
_HOME = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the folders and the limits of the checks."""
    group = parser.getgroup("tradewind")
    group.addoption(
        "--tradewind-dags", action="append", default=[], metavar="FOLDER", help="check each Dag file below this folder"
    )
    parser.addini("tradewind_dags", "folders whose Dag files are checked when they are collected", "paths", default=[])
    parser.addini("tradewind_heavy", "packages that no Dag file may load", "args", default=list(HEAVY))
    parser.addini("tradewind_max_parse_s", "CPU seconds that parsing a Dag file may take", default=Limits.max_parse_s)


def pytest_configure(config: pytest.Config) -> None:
    """Keep tests away from a developer's own Airflow, and collect the folders of the command line."""
    config.stash[_HOME] = tempfile.mkdtemp(prefix="tw-airflow-")
    os.environ["AIRFLOW_HOME"] = config.stash[_HOME]
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    if named := config.getoption("--tradewind-dags"):
        by_hand = config.args_source is pytest.Config.ArgsSource.ARGS
        config.args[:] = [*(config.args if by_hand else []), *(str(Path(name).resolve()) for name in named)]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the Airflow home of the session."""
    shutil.rmtree(config.stash[_HOME], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Collect a Dag file as checks, and as nothing else: whatever imports it would load its Dags into this process."""
    collectors = yield
    if file_path.suffix == ".py" and any(folder in file_path.parents for folder in _folders(parent.config)):
        return [DagFile.from_parent(parent, path=file_path)]
    return collectors


def _folders(config: pytest.Config) -> list[Path]:
    named = [Path(name).resolve() for name in config.getoption("--tradewind-dags")]
    return [*named, *config.getini("tradewind_dags")]


def _facts(config: pytest.Config) -> dict[Path, DagFileFacts]:
    """Return what parsing says of every file in the folders; they are parsed once, all together."""
    from include.testing.dag_files import parse_dag_files

    if _FACTS not in config.stash:
        files = sorted({file for folder in _folders(config) for file in folder.rglob("*.py")})
        config.stash[_FACTS] = parse_dag_files(files, root=config.rootpath)
    return config.stash[_FACTS]


class DagFile(pytest.File):
    """A Dag file: a check for each rule of files, and for each rule of each of its Dags."""

    def collect(self) -> Iterable[pytest.Item]:
        """Yield the checks."""
        try:
            facts = _facts(self.config)
        except TradewindError as error:
            raise self.CollectError(str(error)) from error
        for name in FILE_RULES:
            yield FileCheck.from_parent(self, name=name, facts=facts)
        for dag in facts[self.path].dags:
            for name in DAG_RULES:
                yield DagCheck.from_parent(self, name=f"{name}[{dag.dag_id}]", rule=name, dag=dag)


class _Check(pytest.Item):
    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the problems without a traceback, which would only show this file."""
        if isinstance(excinfo.value, AssertionError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def fail_with(self, problems: list[str], rule: Any) -> None:
        """Fail if there is a problem."""
        if problems:
            raise AssertionError("\n".join([f"{rule.__doc__}", *(f"- {problem}" for problem in problems)]))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return what a report names."""
        return self.path, None, f"{self.path.name}: {self.name}"


class FileCheck(_Check):
    """One rule, one file."""

    def __init__(self, *, facts: dict[Path, DagFileFacts], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.facts = facts

    def runtest(self) -> None:
        """Hold the file against the rule."""
        limits = Limits(
            heavy=tuple(self.config.getini("tradewind_heavy")),
            max_parse_s=float(self.config.getini("tradewind_max_parse_s")),
        )
        rule = FILE_RULES[self.name]
        self.fail_with(list(rule(self.facts[self.path], limits, list(self.facts.values()))), rule)


class DagCheck(_Check):
    """One rule, one Dag."""

    def __init__(self, *, rule: str, dag: DagFacts, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rule = DAG_RULES[rule]
        self.dag = dag

    def runtest(self) -> None:
        """Hold the Dag against the rule."""
        self.fail_with(list(self.rule(self.dag)), self.rule)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Return a lake in a temporary folder."""
    from include.lake.storage import Storage

    return Storage(root=str(tmp_path / "data"))


@pytest.fixture
def workbench(storage: Storage, tmp_path: Path) -> Workbench:
    """Return a lake, a feature store and a ledger of this test's own, and a supervisor whose connections name them."""
    return Workbench(storage=storage, ledger=tmp_path / "ledger.sqlite")


@pytest.fixture
def registry(workbench: Workbench, mlflow_url: str) -> str:
    """Return the URL of a real MLflow server, which the workbench's connections name too."""
    workbench.connect_registry(mlflow_url)
    return mlflow_url


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a real MLflow server on SQLite for all tests of this process; give each test a model name of its own."""
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as url:
        yield url
