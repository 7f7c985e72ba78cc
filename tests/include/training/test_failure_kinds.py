"""The page about training says of each kind of failure what the code does with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from include.training.failures import Evidence, Failure, FailureKind, classify
from tests.include.training.test_manifests import VERSIONS

PAGE = (Path(__file__).parents[3] / "docs" / "pages" / "training.md").read_text()
(TABLE,) = re.findall(r"^### Kinds of failure$(.*?)^### ", PAGE, flags=re.DOTALL | re.MULTILINE)
ROWS = {
    kind: [cell.strip() for cell in cells.split("|")]
    for kind, cells in re.findall(r"^\| `(\w+)` \| (.*) \|$", TABLE, flags=re.MULTILINE)
}


def test_the_table_has_each_kind_and_no_other() -> None:
    assert ROWS.keys() == set(FailureKind)


@pytest.mark.parametrize("kind", FailureKind)
def test_a_row_says_whose_retries_are_used_up(kind: FailureKind) -> None:
    recognised_by, to_blame, follows, what_to_do = ROWS[kind]
    failure = Failure(kind=kind)
    wanted = "no retry" if failure.needs_a_person else "started again" if failure.is_infrastructure else "one retry"
    assert follows == wanted
    assert all((recognised_by, to_blame, what_to_do))


@pytest.mark.parametrize("code", [1, 2, 64, 65, 66, 69, 71, 75, 78, 126, 127, 128, 137, 139, 143, -9, -15])
def test_an_exit_code_stands_with_the_kind_that_it_is(code: int) -> None:
    found = classify(Evidence(exit_code=code))
    assert found is not None
    named = {kind for kind, row in ROWS.items() if re.search(rf"(?<![\w-]){code}\b", row[0])}
    assert named == {found.kind}


def test_the_page_names_the_versions_of_kubernetes_that_the_manifests_are_held_against() -> None:
    *others, last = VERSIONS
    assert f"Kubernetes {', '.join(others)} and {last}" in PAGE
