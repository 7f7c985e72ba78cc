"""Whose events are whose, and when they came."""

from __future__ import annotations

from typing import Any

import pytest

from include.training.pod_events import about, seen_at

OWN = {"metadata": {"name": "a", "uid": "2", "creationTimestamp": "2026-01-01T00:01:00Z"}}


def event(at: str = "", **involved: str) -> dict[str, Any]:
    return {"reason": "Preempted", "involvedObject": involved, "lastTimestamp": at}


@pytest.mark.parametrize(
    ("told", "is_own"),
    [
        (event(name="a", uid="2"), True),
        (event(name="a", uid="1"), False),
        (event(name="b", uid="2"), False),
        (event("2026-01-01T00:01:00Z", name="a"), True),  # the taint manager leaves the uid out
        (event("2026-01-01T00:00:59Z", name="a"), False),
        ({"reason": "Preempted"}, True),
    ],
)
def test_events_of_an_earlier_pod_do_not_speak_for_this_one(told: dict[str, Any], is_own: bool) -> None:
    assert about(OWN, [told]) == ([told] if is_own else [])


def test_an_event_without_a_time_has_none() -> None:
    assert seen_at({"lastTimestamp": None, "eventTime": None}) == 0
    assert seen_at({"series": {}, "eventTime": "1970-01-01T00:01:00.500000Z"}) == 60.5
