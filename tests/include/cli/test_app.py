"""The launcher, and what the command line does about an error."""

from __future__ import annotations

import os
import re
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from include import __version__
from include.cli.app import Commands, app
from include.errors import NotFoundError
from include.runtime.home import REPO
from tests.cpu_speed import slowdown

LAUNCHER = REPO / "tradewind"
MAX_HELP_S = 0.5


def tradewind(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(LAUNCHER), *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False)


def failing_app(error: Exception) -> typer.Typer:
    failing = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @failing.callback()
    def options(*, debug: bool = False) -> None:
        pass

    @failing.command()
    def fail() -> None:
        raise error

    return failing


def test_runs_from_any_directory_even_beside_another_include(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "__init__.py").write_text("raise RuntimeError('not ours')")

    done = tradewind("--version", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, f"tradewind {__version__}\n"), done.stderr


def test_is_found_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "tw").symlink_to(LAUNCHER)

    done = subprocess.run([tmp_path / "tw", "--version"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_help_takes_less_than_half_a_second_of_work(tmp_path: Path) -> None:
    spent_s = []
    for _ in range(3):  # the first one may have to write bytecode
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert tradewind("--help", cwd=tmp_path).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent_s.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)

    assert min(spent_s) < MAX_HELP_S * slowdown()


def test_loads_no_heavy_library() -> None:
    code = (
        "import sys, include.cli.app; heavy = 'torch onnx onnxruntime mlflow feast evidently great_expectations pandas "
        "numpy pyarrow sklearn scipy duckdb deltalake airflow'; print([n for n in heavy.split() if n in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_makes_the_virtual_environment_when_it_is_absent(tmp_path: Path) -> None:
    shutil.copy(LAUNCHER, tmp_path / "tradewind")
    shutil.copytree(REPO / "include", tmp_path / "include", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "Makefile").write_text(
        "setup:\n\t@echo set up\n\t@mkdir -p .venv/bin\n\t@touch .venv/.tradewind-locks.json\n"
        f"\t@printf '#!/bin/sh\\nexec {sys.executable} \"$$@\"\\n' > .venv/bin/python; chmod +x .venv/bin/python\n"
    )
    command = [str(tmp_path / "tradewind"), "--version"]

    first, second = (subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(2))

    assert (first.returncode, first.stdout) == (0, f"tradewind {__version__}\n"), first.stderr
    assert "make setup" in first.stderr
    assert second.stderr == ""


def test_an_error_of_ours_is_said_without_a_traceback() -> None:
    done = CliRunner().invoke(failing_app(NotFoundError("model 'x' must exist; got none.")), ["fail"])

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: model 'x' must exist; got none.\n"


def test_a_defect_leaves_its_traceback_in_a_private_file() -> None:
    done = CliRunner().invoke(failing_app(ValueError("no such thing\nmore")), ["fail"])

    found = re.search(r"The traceback is in (\S+);", done.stderr)
    assert done.exit_code == 70
    assert "ValueError: no such thing." in done.stderr
    assert found is not None
    kept = Path(found[1])
    assert "Traceback (most recent call last)" in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    kept.unlink()


def test_debug_prints_the_traceback() -> None:
    done = CliRunner().invoke(failing_app(NotFoundError("gone.")), ["--debug", "fail"])

    assert done.exit_code == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.endswith("error: gone.\n")


@pytest.mark.parametrize("arguments", [["no-such-command"], ["status", "--no-such-option"], ["run", "train"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_the_shell_completes_commands_stages_and_models(tmp_path: Path) -> None:
    def complete(words: str, number: int) -> list[str]:
        env = {"_TRADEWIND_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        return tradewind(cwd=tmp_path, **env).stdout.split()

    assert complete("tradewind stat", 1) == ["status"]
    assert complete("tradewind run mater", 2) == ["materialize"]
    assert complete("tradewind status fli", 2) == ["flight_delays"]
