"""What the triggerer loads, and whence: Dag files are checked by the test kit's plugin, when pytest collects `dags`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.testing.dag_files import parse_dag_files
from include.testing.dag_rules import Limits, light, quick
from tests.cpu_speed import slowdown

if TYPE_CHECKING:
    from include.testing.dag_files import DagFileFacts

ROOT = Path(__file__).parents[2]
TRIGGER_FILES = sorted(path for path in (ROOT / "sensors" / "triggers").glob("*.py") if path.stem != "__init__")
PACKAGES = ("operators", "sensors", "include")


@pytest.fixture(scope="module")
def facts() -> dict[Path, DagFileFacts]:
    """Return what loading each trigger takes and brings in, as far as it is more than Airflow itself."""
    return parse_dag_files([*TRIGGER_FILES, ROOT / "dags" / "ingest.py"], root=ROOT)


@pytest.mark.parametrize("path", TRIGGER_FILES, ids=lambda path: path.stem)
def test_a_trigger_loads_fast_and_nothing_heavy(facts: dict[Path, DagFileFacts], path: Path) -> None:
    assert facts[path].errors == ()
    assert [*light(facts[path], Limits(), []), *quick(facts[path], Limits(max_parse_s=0.3 * slowdown()), [])] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_generic_names_resolve_in_this_repo(facts: dict[Path, DagFileFacts], package: str) -> None:
    places = {found.places[package] for found in facts.values() if package in found.places}
    assert places == {str(ROOT / package / "__init__.py")}
