"""What Kubernetes' events say about a pod or its owner, and when they came.

Source: the API's core/v1 Event. Kubelets and controllers write `lastTimestamp`; the scheduler writes `eventTime`, and
`series` when it says the same again. The taint manager leaves the object's uid out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from include.training.failure_kinds import Failure, FailureKind

Seen = Mapping[str, Any]
"""A pod, its owner or an event, as Kubernetes' API writes it."""

_BY_EVENT = {
    "Preempted": FailureKind.PREEMPTED,
    "Evicted": FailureKind.PREEMPTED,
    "TaintManagerEviction": FailureKind.NODE_LOST,
    "NodeNotReady": FailureKind.NODE_LOST,
    "FailedScheduling": FailureKind.UNSCHEDULABLE,
    "FailedCreate": FailureKind.SETUP,
}
_OVER_QUOTA = "exceeded quota"
_BY_KUBELET = {
    "FailedMount": FailureKind.SETUP,
    "FailedAttachVolume": FailureKind.SETUP,
    "FailedMapVolume": FailureKind.SETUP,
    "FailedCreatePodSandBox": FailureKind.PREFLIGHT,
    "NetworkNotReady": FailureKind.PREFLIGHT,
    "Failed": FailureKind.IMAGE,
    "BackOff": FailureKind.IMAGE,
}
_ON_ITS_WAY = ("Pulling", "Pulled", "Created", "Started", "Scheduled", "SuccessfulAttachVolume")
"""After one of these an older trouble is over."""


def by_events(events: Sequence[Seen], kinds: Collection[FailureKind]) -> Failure | None:
    """Return what the newest event that speaks of one of these kinds says."""
    for event in reversed(events):
        reason, message = str(event.get("reason") or ""), str(event.get("message") or "")
        kind = FailureKind.QUOTA if _OVER_QUOTA in message else _BY_EVENT.get(reason)
        if kind is not None and kind in kinds:
            return Failure(kind=kind, evidence=(sentence(event),))
    return None


def by_kubelet(events: Sequence[Seen]) -> Failure | None:
    """Return what keeps a node from starting a pod that it has; None: nothing so far."""
    newest = _newest(events, (*_BY_KUBELET, *_ON_ITS_WAY))
    kind = _BY_KUBELET.get(str(newest.get("reason"))) if newest else None
    return Failure(kind=kind, evidence=(sentence(newest),)) if newest and kind else None


def pulling(events: Sequence[Seen]) -> Failure | None:
    """Return that a node is still fetching an image; None: it is not."""
    newest = _newest(events, (*_BY_KUBELET, *_ON_ITS_WAY))
    is_pulling = newest is not None and newest.get("reason") == "Pulling"
    return Failure(kind=FailureKind.IMAGE, evidence=(sentence(newest),)) if newest and is_pulling else None


def _newest(events: Sequence[Seen], reasons: Collection[str]) -> Seen | None:
    return next((event for event in reversed(events) if event.get("reason") in reasons), None)


def about(found: Seen, events: Sequence[Seen]) -> list[Seen]:
    """Return the events about a pod or its owner: not about another one that had its name before."""
    metadata = found.get("metadata") or {}
    return [event for event in events if _is_about(event, metadata)]


def _is_about(event: Seen, metadata: Seen) -> bool:
    told = event.get("involvedObject") or {}
    if told.get("name", metadata.get("name")) != metadata.get("name"):
        return False
    if told.get("uid") and metadata.get("uid"):
        return bool(told["uid"] == metadata["uid"])
    return seen_at(event) == 0 or seen_at(event) >= moment(metadata.get("creationTimestamp"))


def seen_at(event: Seen) -> float:
    """Return when an event came last, in seconds since 1970; 0: it does not say so."""
    last = (event.get("series") or {}).get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return moment(last)


def moment(timestamp: object) -> float:
    """Return a timestamp of the API in seconds since 1970; 0: it is none."""
    try:
        return datetime.fromisoformat(str(timestamp)).timestamp()
    except ValueError:
        return 0.0


def sentence(found: Seen) -> str:
    """Return a reason and its message as one line."""
    return ": ".join(str(found[key]) for key in ("reason", "message") if found.get(key))
