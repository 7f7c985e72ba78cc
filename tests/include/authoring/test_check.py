"""Each mistake in a model's folder is found, with its line."""

from __future__ import annotations

import itertools
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import include.models
from include.authoring.check import check_model
from include.authoring.check_code import check_expectations, check_features, check_network
from include.authoring.check_spec import check_spec
from include.authoring.generated_rows import typed_rows
from include.demo.flights import month_files
from include.lake.landing import land_files
from include.spec import load_spec
from tests.cpu_speed import slowdown

if TYPE_CHECKING:
    from include.authoring.problems import Problem
    from include.lake.storage import Storage

REPO = Path(__file__).parents[3]
_NUMBERS = itertools.count()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the shipped model under a name of its own, importable."""
    name = f"copy_{next(_NUMBERS)}"  # Python keeps a module by its name
    folder = tmp_path / "models" / name
    shutil.copytree(REPO / "include/models/flight_delays", folder)
    change(folder / "model.yaml", "name: flight_delays", f"name: {name}")
    monkeypatch.setattr(include.models, "__path__", [str(folder.parent)])
    return folder


def change(path: Path, old: str, new: str) -> int:
    """Replace a text that occurs once and return the line of it."""
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
    path.write_text(text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def places(problems: list[Problem]) -> list[tuple[str, int | None]]:
    return [(Path(problem.file).name, problem.line) for problem in problems]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "  max_epochs: 16",
            "  max_epoch: 16",
            "training.max_epoch: unknown key; allowed: .*Did you mean 'max_epochs'?",
        ),
        ("  max_epochs: 16", "  max_epochs: '16'", "training.max_epochs: Input should be a valid integer"),
        (
            "    - {name: dest, kind: categorical}",
            "    - {name: dest, kind: text}",
            "features.request.2.kind: Input should",
        ),
        ("name: is_late", "name: Is Late", "label.name: String should match pattern"),
        ("task: binary_classification", "task: binary", "task: Input should be 'binary_classification'"),
        ("timezone: America/New_York", "timezone: America/NewYork", "source.timezone: must be a time zone"),
        ("schema_version: 3", "schema_version: 9", "schema_version must be 3; got 9"),
    ],
)
def test_a_mistake_in_the_spec_is_found_at_its_line(folder: Path, old: str, new: str, said: str) -> None:
    line = change(folder / "model.yaml", old, new)
    spec, problems = check_spec(folder)
    assert spec is None
    assert ("model.yaml", line) in places(problems)
    assert re.search(said, "\n".join(map(str, problems)))


def test_every_mistake_of_a_spec_is_found_at_once(folder: Path) -> None:
    lines = [
        change(folder / "model.yaml", "owner: ml-platform", "owners: ml-platform"),
        change(folder / "model.yaml", "  batch_size: 1024", "  batch_size: 0"),
    ]
    _, problems = check_spec(folder)
    assert {line for _, line in places(problems)} == {2, *lines}  # a missing key has the line of its section


def test_broken_yaml_and_missing_files_are_found(folder: Path) -> None:
    (folder / "network.py").unlink()
    line = change(folder / "model.yaml", "label:\n", "label: [\n")
    spec, problems = check_spec(folder)
    assert spec is None
    assert places(problems)[0][1] in (line + 1, line + 2)
    assert str(problems[0]).partition(": ")[2].startswith("no YAML")
    assert ("network.py", None) in places(problems)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    s.tailnum\n", "    s.tailnumber\n", 'does not have a column named "tailnumber"|"tailnumber" not found'),
        ("    s.tailnum\n", "    s.tailnum FRM x\n", "syntax error at or near"),
        ("    s.tailnum\n", "    s.tailnum AS tail\n", "must return a column 'tailnum', .*Did you mean 'tail'?"),
        ("FROM flights\n", "FROM flight\n", "Table with name flight does not exist"),
        ("GROUP BY carrier", "GROUP BY carier", "carier"),
        ("EXAMPLES_SQL = ", "EXAMPLE_SQL = ", "must declare EXAMPLES_SQL"),
        ("HISTORY_DAYS = 28", "HISTORY_DAYS = 28 / 0", "ZeroDivisionError"),
        ("HISTORY_DAYS = 28", "HISTORY_DAYS = = 28", "no Python: invalid syntax"),
    ],
)
def test_a_mistake_in_the_features_is_found_at_its_line(folder: Path, old: str, new: str, said: str) -> None:
    line = change(folder / "features.py", old, new)
    (problem,) = check_features(load_spec(folder.name, folder.parent), folder=folder)
    assert re.search(said, problem.text), problem.text
    if "must" not in said:
        assert (Path(problem.file).name, problem.line) == ("features.py", line)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('column="arr_delay"', 'column="arrdelay"', "has no column 'arrdelay'; .*Did you mean 'arr_delay'?"),
        ('    "humid": (0, 100, "per cent"),', '    "humidity": (0, 100, "per cent"),', "Did you mean 'humid'?"),
        ("    num_days = calendar.", "    num_days = calender.", "NameError: name 'calender' is not defined"),
    ],
)
def test_a_mistake_in_the_expectations_is_found_at_its_line(folder: Path, old: str, new: str, said: str) -> None:
    line = change(folder / "expectations.py", old, new)
    (problem,) = check_expectations(load_spec(folder.name, folder.parent), folder=folder)
    assert (Path(problem.file).name, problem.line) == ("expectations.py", line)
    assert re.search(said, problem.text), problem.text


def test_a_network_without_its_function_is_found(folder: Path) -> None:
    (folder / "network.py").write_text('"""Nothing."""\n')
    (problem,) = check_network(load_spec(folder.name, folder.parent), folder=folder)
    assert problem.text.startswith("must have build_network(inputs); got none")


def test_made_up_rows_have_the_types_of_the_spec() -> None:
    spec = load_spec("flight_delays")
    rows = typed_rows(spec, num_rows=50)
    assert {name: table.num_rows for name, table in rows.items()} == {"flights": 50, "weather": 50}
    assert set(rows["flights"]["month"].to_pylist()) == {1}
    assert rows["flights"]["time_hour"][0].as_py().isoformat() == "2013-01-01T05:00:00+00:00"


def test_a_network_that_cannot_learn_is_found_at_its_line_by_the_dry_run(folder: Path, storage: Storage) -> None:
    (folder / "network.py").write_text(
        '"""Breaks."""\n\nfrom include.training.tabular import build_tabular\n\n\n'
        "def build_network(inputs):\n    return build_tabular(inputs).nowhere\n"
    )
    files = month_files("2013-01", max_flights=1500)
    land_files(storage=storage, model=folder.name, partition="2013-01", marker="_SUCCESS", files=files)
    (problem,) = check_model(folder.name, models_dir=folder.parent, storage=storage).problems
    assert places([problem]) == [("network.py", 7)]
    assert "has no attribute 'nowhere'" in problem.text


def test_a_spec_alone_is_checked_within_a_blink(folder: Path) -> None:
    change(folder / "model.yaml", "  max_epochs: 16", "  max_epoch: 16")
    code = "import sys; from include.cli.app import app; app(['check', sys.argv[1]])"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, folder.name],
        env={"TRADEWIND_MODELS": str(folder.parent), "PATH": "/usr/bin:/bin"},
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "model.yaml:" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & {"torch", "great_expectations", "duckdb", "pyarrow", "pandas", "numpy"}
    spent_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert spent_s < 1.5 * slowdown()
