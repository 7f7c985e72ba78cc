"""`./tradewind new`: what it asks, what it prints, and what it leaves on the disk."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from typer.testing import CliRunner

from include.authoring.ask import Person, Question
from include.cli.app import app
from include.runtime.home import REPO
from tests.include.authoring import samples

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "models"
    found.mkdir()
    monkeypatch.setattr("include.cli.new.MODELS_DIR", found)
    return found


def test_it_explains_writes_lands_and_says_what_comes_next(tmp_path: Path, models_dir: Path) -> None:
    path, home = samples.churn(tmp_path / "churn.csv"), tmp_path / "home"
    flags = ["--label", "churned", "--yes", "--land", "--home", str(home)]
    env = {"COLUMNS": "200", "TRADEWIND_MODEL_SERVER_PORT": "18500"}
    done = CliRunner().invoke(app, ["new", "leavers", "--csv", str(path), *flags], env=env)
    assert done.exit_code == 0, done.output
    assert "http://127.0.0.1:18500/v2/models/leavers/infer" in done.output
    assert "leaks: alone it explains" in done.output
    assert "landed 3,000 rows as 6 partitions" in done.output
    assert f"make up TRADEWIND_HOME={home}" in done.output
    assert {path.name for path in (models_dir / "leavers").iterdir()} == {
        "README.md",
        "__init__.py",
        "expectations.py",
        "features.py",
        "model.yaml",
        "network.py",
        "sample",
        "test_leavers.py",
    }
    landed = home / "data" / "landing" / "leavers"
    assert sorted(folder.name for folder in landed.iterdir()) == [f"2024-0{month}" for month in range(1, 7)]
    assert all((folder / "_SUCCESS").is_file() for folder in landed.iterdir())


def test_without_a_terminal_it_never_asks(tmp_path: Path, models_dir: Path) -> None:
    path = samples.churn(tmp_path / "churn.csv")
    done = CliRunner().invoke(app, ["new", "leavers", "--csv", str(path)])
    assert done.exit_code == 1
    assert "new cannot decide this alone" in done.output
    assert list(models_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["leavers"], "new needs one sample; got none or several"),
        (["leavers", "--csv", "a.csv", "--sql", "SELECT 1"], "new needs one sample; got none or several"),
        (["Leavers", "--csv", "a.csv"], "a model's name must be small letters"),
        (["leavers", "--csv", "nowhere.csv"], "must be a file; got none there"),
        (["leavers", "--csv", "a.csv", "--type", "fee"], "--type must be COLUMN=...; got 'fee'"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_read(models_dir: Path, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["new", *arguments, "--yes"])
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())


def test_a_folder_that_is_there_is_refused(models_dir: Path) -> None:
    (models_dir / "leavers").mkdir()
    done = CliRunner().invoke(app, ["new", "leavers", "--csv", "a.csv", "--yes"])
    assert done.exit_code == 1
    assert "model 'leavers' must be new" in done.output


def test_a_person_is_asked_until_the_answer_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["weak", ""])
    monkeypatch.setattr("builtins.input", lambda _prompt="": next(answers))
    console = Console(file=io.StringIO(), width=120)
    question = Question(flag="--grain", text="How long?", guess="month", choices=["month", "week"], why="7 months")
    assert Person(console=console).ask(question) == "month"
    assert isinstance(console.file, io.StringIO)
    assert "7 months" in console.file.getvalue()
    assert "Did you mean 'week'?" in console.file.getvalue()


def test_at_a_terminal_the_questions_are_asked_with_the_guesses_as_defaults(tmp_path: Path) -> None:
    path = samples.churn(tmp_path / "churn.csv")
    (tmp_path / "models").mkdir()
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "include.cli", "new", "leavers", "--csv", str(path), "--label", "churned"],
        env={**os.environ, "TRADEWIND_MODELS": str(tmp_path / "models"), "TERM": "dumb"},
        cwd=REPO,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.close(terminal)
    os.write(controller, b"\n" * 6)  # timezone, task, grain, key, entity, and whether to write
    said, _ = process.communicate(timeout=120)
    os.close(controller)
    assert process.returncode == 0, said
    assert said.index("In which time zone?") < said.index("How long is a partition") < said.index("Write it?")
    assert (tmp_path / "models" / "leavers" / "model.yaml").is_file()
