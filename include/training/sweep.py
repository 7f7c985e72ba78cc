"""Which work on a cluster nobody waits for any more: by Airflow's own word about the task that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from include.training.pod_events import moment
from include.training.pod_status import condition, phase
from include.training.remote_names import task_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.training.remote_names import TaskKey

_OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""States in which no try follows by itself; in all others the next worker or trigger goes on with the work."""


class Fate(StrEnum):
    """What becomes of work."""

    KEEP = "keep"
    ORPHAN = "orphan"
    OLD = "old"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Work on a cluster.

    Attributes:
        path: Of the object.
        uid: Of the object.
        task: Whose work it is; None: it does not say so.
        has_ended: Whether nothing of it runs any more.
        last_change_at: When it ended, if it has; else when something of it last changed.
    """

    path: str
    uid: str
    task: TaskKey | None
    has_ended: bool
    last_change_at: datetime

    @classmethod
    def of(cls, item: Mapping[str, Any], *, path: str) -> Found:
        """Return what an object of Kubernetes' API is."""
        metadata = item["metadata"]
        return cls(
            path=path,
            uid=str(metadata.get("uid", "")),
            task=task_of(metadata.get("annotations") or {}),
            has_ended=has_ended(item),
            last_change_at=datetime.fromtimestamp(_last_change(item), UTC),
        )


def _last_change(item: Mapping[str, Any]) -> float:
    """Return when the newest of its conditions changed or its last container ended, in seconds since 1970."""
    status = item.get("status") or {}
    ends = [each.get("state", {}).get("terminated") or {} for each in status.get("containerStatuses") or ()]
    times = [item["metadata"]["creationTimestamp"], *(end.get("finishedAt") for end in ends)]
    times += [each.get("lastTransitionTime") for each in status.get("conditions") or ()]
    return max(moment(text) for text in times)


def has_ended(item: Mapping[str, Any]) -> bool:
    """Return whether a pod, a Job or a TrainJob has come to its end."""
    told = [condition(item, kind) for kind in ("Complete", "Failed")]
    return phase(item) in ("Succeeded", "Failed") or any(each and each.get("status") == "True" for each in told)


def judge(found: Found, *, task_state: str | None, now: datetime, keep: timedelta) -> Fate:
    """Return what becomes of work.

    Args:
        found: The work.
        task_state: State of its task instance; None: there is none, its Dag run was deleted.
        now: The current time.
        keep: For how long work that has ended stays, to be looked at.
    """
    is_waited_for = task_state is not None and task_state not in _OVER
    if is_waited_for or found.task is None:
        return Fate.KEEP
    if not found.has_ended:
        return Fate.ORPHAN
    return Fate.OLD if now - found.last_change_at > keep else Fate.KEEP
