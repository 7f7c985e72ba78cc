"""What the Dag processor and the triggerer load: our files must cost little beyond Airflow's own SDK."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DAG_FILES = sorted((ROOT / "dags").glob("*.py"))
TRIGGER_FILES = sorted(path for path in (ROOT / "sensors" / "triggers").glob("*.py") if path.stem != "__init__")
PACKAGES = ("operators", "sensors", "include")
MAX_SECONDS = 0.3
HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "mlflow",
    "feast",
    "evidently",
    "great_expectations",
    "pandas",
    "pyarrow",
    "duckdb",
    "deltalake",
    "sklearn",
    "scipy",
)

# Each file is loaded in a fork of a process that holds airflow.sdk and nothing else, as the Dag processor does it. The
# repo root comes last on the path, as a bundle's does. CPU seconds, since the machine may be busy with other tests.
PROBE = """
import importlib.util, json, os, sys, time
root, *files = sys.argv[1:]
sys.path[:] = [entry for entry in sys.path if entry not in ("", root)] + [root]
import airflow.sdk
before = {name.partition(".")[0] for name in sys.modules}
def probe(file):
    started = time.process_time()
    name = file.removeprefix(root + "/").removesuffix(".py").replace("/", ".")
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    seconds = time.process_time() - started
    loaded = sorted({name.partition(".")[0] for name in sys.modules} - before)
    places = {p: sys.modules[p].__file__ for p in ("operators", "sensors", "include") if p in sys.modules}
    return {"seconds": seconds, "loaded": loaded, "places": places}
for file in files:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        print("FOUND", json.dumps({"file": file, **probe(file)}), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@cache
def probed() -> dict[str, Any]:
    """Return what loading each file took and brought in."""
    files = [str(path) for path in (*DAG_FILES, *TRIGGER_FILES)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", PROBE, str(ROOT), *files],
        cwd="/",
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    lines = [line.removeprefix("FOUND ") for line in run.stdout.splitlines() if line.startswith("FOUND ")]
    found = {entry["file"]: entry for entry in map(json.loads, lines)}
    missing = set(files) - set(found)
    assert not missing, f"{missing} could not be imported:\n{run.stderr[-3000:]}"
    return found


def test_there_is_something_to_probe() -> None:
    assert DAG_FILES
    assert TRIGGER_FILES


@pytest.mark.parametrize("path", [*DAG_FILES, *TRIGGER_FILES], ids=lambda path: path.stem)
def test_no_heavy_library_is_loaded(path: Path) -> None:
    assert not set(probed()[str(path)]["loaded"]) & set(HEAVY)


@pytest.mark.parametrize("path", [*DAG_FILES, *TRIGGER_FILES], ids=lambda path: path.stem)
def test_loading_is_quick(path: Path) -> None:
    seconds = probed()[str(path)]["seconds"]
    assert seconds < MAX_SECONDS, f"{path.name} takes {seconds:.3f} s of CPU beyond airflow.sdk"


@pytest.mark.parametrize("package", PACKAGES)
def test_generic_names_resolve_in_this_repo(package: str) -> None:
    places = {entry["places"][package] for entry in probed().values() if package in entry["places"]}
    assert places == {str(ROOT / package / "__init__.py")}
