"""Why work of one pod or several does not run yet, and since when, by all that is seen of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.cluster.conditions import Rule
from include.training.failure_kinds import Failure, FailureKind
from include.training.pod_events import about, by_events, moment, seen_at
from include.training.pod_status import is_waiting, what_is_awaited, why_pending

if TYPE_CHECKING:
    from include.training.watch import Sight


def why_work_waits(sight: Sight, *, num_pods: int) -> Failure:
    """Return why work does not run yet, as the kind that it is if it never will.

    Args:
        sight: What was seen of it.
        num_pods: How many it wants.
    """
    for pod in sight.pods:
        if found := why_pending(pod, sight.events):
            return found
    owner = sight.owner or {}
    if Rule.parse("Suspended").holds(owner) or (owner.get("spec") or {}).get("suspend"):
        return Failure(kind=FailureKind.QUOTA, evidence=("suspended: its queue has not admitted it yet",))
    if len(sight.pods) < num_pods and (
        found := by_events(about(owner, sight.events), (FailureKind.QUOTA, FailureKind.SETUP))
    ):
        return found
    for pod in sight.pods:
        if is_waiting(pod):
            return what_is_awaited(pod, sight.events)
    missing = f"{len(sight.pods)} of {num_pods} pods are there, and no reason is given"
    return Failure(kind=FailureKind.SETUP, evidence=(missing,))


def pending_in_the_cluster_s(sight: Sight) -> float:
    """Return for how long the work was as it is when the newest event came; by the cluster's clocks alone.

    It outlives the watcher, and begins anew when work that ran is queued again, has another pod, or its node is not
    heard any more.
    """
    waits = [sight.owner or {}, *(pod for pod in sight.pods if is_waiting(pod))]
    changes = [found for each in waits for found in (each.get("status") or {}).get("conditions") or ()]
    times = [(each.get("metadata") or {}).get("creationTimestamp") for each in waits]
    began = max(moment(text) for text in (*times, *(found.get("lastTransitionTime") for found in changes)))
    seen = [at for event in sight.events if (at := seen_at(event))]
    return max(0.0, max(seen) - began) if began and seen else 0.0
