"""The bundle tells Airflow what has changed below its Dags: real files, a real process that parses, a real table."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from airflow.models.dagbag import DagPriorityParsingRequest
from sqlalchemy import create_engine, delete, select
from sqlalchemy.orm import sessionmaker

if TYPE_CHECKING:
    from collections.abc import Callable

REPO = Path(__file__).parents[2]
DAG_FILES = {"dags/broken_specs.py", "dags/train.py"}


def bundle_module() -> Any:
    found = importlib.util.spec_from_file_location("model_folders", REPO / "plugins/model_folders.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Return a folder with two Dag files, a module that they import, and a model."""
    for file in (*DAG_FILES, "operators/train_model.py", "include/models/one/model.yaml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("first")
    return tmp_path


@pytest.fixture
def refreshed(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return a function that refreshes the bundle and returns what it asked Airflow for, which takes all requests."""
    monkeypatch.delenv("TRADEWIND_MODELS", raising=False)
    engine = create_engine(f"sqlite:///{tmp_path}/airflow.db")
    DagPriorityParsingRequest.__table__.create(engine)
    session_class = sessionmaker(engine)
    monkeypatch.setattr("airflow.settings.Session", session_class)
    others = {child.pid for child in psutil.Process().children()}  # servers of other tests

    class Bundle(bundle_module().ModelFoldersBundle):  # type: ignore[misc]
        def _parsing(self) -> frozenset[int]:
            return frozenset(super()._parsing() - others)

    bundle = Bundle(name="tradewind", path=str(repo))

    def refresh() -> list[str]:
        bundle.refresh()
        with session_class.begin() as session:
            asked = list(session.scalars(select(DagPriorityParsingRequest.relative_fileloc)))
            session.execute(delete(DagPriorityParsingRequest))
        return asked

    return refresh


@pytest.mark.parametrize(
    "change",
    [
        lambda repo: (repo / "include/models/one/model.yaml").write_text("second"),
        lambda repo: (repo / "include/models/one/model.yaml").rename(repo / "include/models/one/gone"),
        lambda repo: (repo / "operators/train_model.py").write_text("second"),
        lambda repo: (repo / "dags/train.py").write_text("second"),
        lambda repo: (repo / "sensors").mkdir() or (repo / "sensors/new.py").write_text(""),
    ],
    ids=["written", "removed", "code", "dag", "new"],
)
def test_a_change_asks_for_all_dag_files_once(
    repo: Path, refreshed: Callable[[], list[str]], change: Callable[[Path], object]
) -> None:
    assert refreshed() == []  # Airflow parses everything at its start
    assert refreshed() == []
    change(repo)
    assert refreshed() == sorted(DAG_FILES, reverse=True)  # Airflow takes the last one first
    assert refreshed() == []


def test_a_file_without_part_in_dags_asks_for_nothing(repo: Path, refreshed: Callable[[], list[str]]) -> None:
    assert refreshed() == []
    (repo / "include/models/one/README.md").write_text("new")
    (repo / "include/models/one/.model.yaml").write_text("not yet in place")
    assert refreshed() == []


def test_what_began_before_the_change_is_parsed_again_after_it_ended(
    repo: Path, refreshed: Callable[[], list[str]]
) -> None:
    assert refreshed() == []
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parsing:
        (repo / "include/models/one/model.yaml").write_text("second")
        assert set(refreshed()) == DAG_FILES
        assert refreshed() == []
        parsing.communicate(b"\n")
    assert refreshed() == []  # Airflow may not have taken its result yet
    assert set(refreshed()) == DAG_FILES
    assert refreshed() == []


def test_models_that_lie_elsewhere_are_watched_there(
    repo: Path, refreshed: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEWIND_MODELS", str(tmp_path / "elsewhere"))
    assert refreshed() == []
    (tmp_path / "elsewhere/two").mkdir(parents=True)
    (tmp_path / "elsewhere/two/model.yaml").write_text("")
    assert set(refreshed()) == DAG_FILES
    (repo / "include/models/one/model.yaml").write_text("second")
    assert refreshed() == []
