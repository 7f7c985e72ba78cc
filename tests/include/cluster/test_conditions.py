"""Rules over an object's conditions and fields."""

from __future__ import annotations

from typing import Any

import pytest

from include.cluster.conditions import Rule, Verdict, decide
from include.errors import BadInputError

READY = {"type": "Ready", "status": "True", "reason": "Up", "message": "all replicas answer"}
FAILED = {"type": "Failed", "status": "True", "reason": "Crash", "message": "exit code 1"}


def thing(*conditions: dict[str, Any], generation: int | None = None, **status: Any) -> dict[str, Any]:
    metadata = {} if generation is None else {"generation": generation}
    return {"metadata": metadata, "status": {**status, "conditions": list(conditions)}}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, (Verdict.GONE, "it is not there")),
        ({}, (Verdict.WAIT, "no conditions yet")),
        (thing(READY | {"status": "False"}), (Verdict.WAIT, "Ready: Up: all replicas answer")),
        (thing(READY), (Verdict.REACHED, "Ready: Up: all replicas answer")),
        (thing(READY, FAILED), (Verdict.FAILED, "Failed: Crash: exit code 1")),
        (thing(READY, generation=2, observedGeneration=1), (Verdict.WAIT, "Ready: Up: all replicas answer")),
        (thing(READY, generation=2, observedGeneration=2), (Verdict.REACHED, "Ready: Up: all replicas answer")),
        (thing(READY | {"observedGeneration": 1}, generation=2), (Verdict.WAIT, "Ready: Up: all replicas answer")),
    ],
)
def test_what_is_waited_for_has_come(found: dict[str, Any] | None, expected: tuple[Verdict, str]) -> None:
    assert decide(found, until=[Rule.parse("Ready")], failed_if=[Rule.parse("Failed")]) == expected


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("Ready", True),
        ("Ready=True", True),
        ("Ready=False", False),
        (".status.phase=Bound", True),
        (".status.phase=Lost", False),
        (".status.replicas=2", True),
        (".spec.done=True", True),
        (".status.nothing.here=1", False),
    ],
)
def test_a_rule_names_a_condition_or_a_field(text: str, holds: bool) -> None:
    found = thing(READY, phase="Bound", replicas=2) | {"spec": {"done": True}}
    assert Rule.parse(text).holds(found) is holds


@pytest.mark.parametrize(
    ("rule", "seen", "holds"),
    [
        (".status.phase=Bound", 1, False),
        (".status.phase=Bound", 2, True),
        (".status.phase=Bound", None, True),
        (".spec.done=True", 1, True),
    ],
)
def test_the_status_of_an_older_version_does_not_count(rule: str, seen: int | None, holds: bool) -> None:
    observed = {} if seen is None else {"observedGeneration": seen}
    found = thing(generation=2, phase="Bound", **observed) | {"spec": {"done": True}}
    assert Rule.parse(rule).holds(found) is holds


@pytest.mark.parametrize("text", ["", ".status.phase", "=True", "a b", "Ready=a=b"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="a rule must be a condition such as Ready"):
        Rule.parse(text)
