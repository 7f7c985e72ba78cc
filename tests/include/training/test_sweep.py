"""For how long work that has ended is kept: from its end, not from its beginning."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.training.remote_names import TaskKey, remote_annotations
from include.training.sweep import Fate, Found, judge

BEGAN, ENDED = "2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z"
KEEP = timedelta(days=1)
TASK = TaskKey(dag_id="d", run_id="r", task_id="t")


def told(kind: str) -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": "True", "lastTransitionTime": ENDED}]}


def ended(phase: str, at: str) -> dict[str, Any]:
    state = {"terminated": {"exitCode": 0, "finishedAt": at}}
    return {"phase": phase, "containerStatuses": [{"name": "base", "state": state}]}


@pytest.mark.parametrize(
    "status",
    [
        told("Complete"),
        told("Failed"),
        ended("Succeeded", ENDED),
        ended("Failed", BEGAN) | told("DisruptionTarget"),
        {"phase": "Failed", **told("Ready")},
    ],
)
def test_work_is_kept_from_its_end(status: dict[str, Any]) -> None:
    metadata = {"uid": "1", "creationTimestamp": BEGAN, "annotations": remote_annotations(TASK)}
    found = Found.of({"metadata": metadata, "status": status}, path="/a")
    end = datetime.fromisoformat(ENDED)
    fates = [judge(found, task_state="success", now=end + KEEP + later, keep=KEEP) for later in (-KEEP / 2, KEEP / 9)]
    assert fates == [Fate.KEEP, Fate.OLD]


def test_what_ended_without_a_word_is_kept_from_its_beginning() -> None:
    metadata = {"creationTimestamp": BEGAN, "annotations": remote_annotations(TASK)}
    found = Found.of({"metadata": metadata, "status": {"phase": "Failed"}}, path="/a")
    assert found.last_change_at == datetime(2026, 1, 1, tzinfo=UTC)
