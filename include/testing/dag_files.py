"""What a Dag file costs the Dag processor, and what it declares: measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import SetupError
from include.testing.probe import MARK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROBE = Path(__file__).with_name("probe.py")


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """A task of a Dag file."""

    task_id: str
    type: str
    retries: int
    timeout_s: float | None


@dataclass(frozen=True, kw_only=True)
class DagFacts:
    """A Dag of a Dag file; `params` is name -> description."""

    dag_id: str
    is_documented: bool
    start_date: str | None
    params: Mapping[str, str]
    tasks: tuple[TaskFacts, ...]


@dataclass(frozen=True, kw_only=True)
class DagFileFacts:
    """A parsed Dag file.

    Attributes:
        path: The file.
        seconds: CPU time of parsing it, the least of two samples, beyond Airflow's own imports.
        loaded: Packages that it has loaded, likewise.
        places: Those packages' files.
        errors: What Airflow shows as import errors.
        asked: Variables and connections that it looked up.
        dags: What it declares.
    """

    path: Path
    seconds: float = 0.0
    loaded: tuple[str, ...] = ()
    places: Mapping[str, str | None] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    dags: tuple[DagFacts, ...] = ()


def parse_dag_files(files: Sequence[Path], *, root: Path) -> dict[Path, DagFileFacts]:
    """Parse Dag files as the Dag processor does.

    Args:
        files: The files.
        root: The bundle's root, from which they import; what it lacks they find in Tradewind's.

    Raises:
        SetupError: A file ends the process that parses it, so Airflow would not get a Dag of it either.
    """
    with tempfile.TemporaryDirectory(prefix="tw-airflow-") as home:
        # A variable or a connection of the environment would hide that it is looked up at all.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "AIRFLOW_"))}
        env |= {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(_PROBE), str(root), *map(str, files)]
        done = subprocess.run(command, cwd="/", env=env, check=False, capture_output=True, text=True)
    lines = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    found: dict[Path, DagFileFacts] = {}
    for facts in map(_read, lines):
        seconds = min(facts.seconds, found.get(facts.path, facts).seconds)
        found[facts.path] = replace(facts, seconds=seconds)
    if missing := [str(file) for file in files if file not in found]:
        raise SetupError(
            f"{', '.join(missing)} must be a file that Python can parse to its end; got: {done.stderr[-2000:]}. "
            "Nothing of it is known. Import it by hand to see where it ends."
        )
    return found


def _read(line: str) -> DagFileFacts:
    found: dict[str, Any] = json.loads(line)
    dags = [{**dag, "tasks": tuple(TaskFacts(**task) for task in dag["tasks"])} for dag in found.pop("dags")]
    return DagFileFacts(
        path=Path(found.pop("file")),
        dags=tuple(DagFacts(**dag) for dag in dags),
        seconds=found["seconds"],
        places=found["places"],
        **{name: tuple(found[name]) for name in ("loaded", "errors", "asked")},
    )
