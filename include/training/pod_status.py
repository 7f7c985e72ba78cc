"""What a pod's status says, with the events about it: phases, conditions, container states, exit codes.

All comes as Kubernetes' API writes it (camelCase dictionaries), so neither a client nor a server is needed. Source: the
pages "Pod Lifecycle" and "Disruptions" of Kubernetes' documentation; the reasons are those that the kubelet, the
scheduler and the taint manager write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from include.training.exit_codes import ExitCode
from include.training.failure_kinds import Failure, FailureKind
from include.training.pod_events import Seen, about, by_events, by_kubelet, pulling, sentence

_REFUSED = (64, 65, 78)
"""The trainer's own word about the job, its data and its setup holds whatever happened around it."""

_BY_CODE = {
    1: FailureKind.USER_ERROR,
    2: FailureKind.USER_ERROR,
    64: FailureKind.USER_ERROR,
    65: FailureKind.BAD_DATA,
    66: FailureKind.PREFLIGHT,
    69: FailureKind.PREFLIGHT,  # the storage does not answer
    71: FailureKind.OUT_OF_MEMORY,
    75: FailureKind.INTERRUPTED,
    78: FailureKind.SETUP,
    126: FailureKind.IMAGE,
    127: FailureKind.IMAGE,
    128: FailureKind.IMAGE,
    137: FailureKind.INTERRUPTED,
    143: FailureKind.INTERRUPTED,
    -9: FailureKind.INTERRUPTED,
    -15: FailureKind.INTERRUPTED,
}

_BY_DISRUPTION = {
    "PreemptionByScheduler": FailureKind.PREEMPTED,
    "EvictionByEvictionAPI": FailureKind.PREEMPTED,
    "TerminationByKubelet": FailureKind.PREEMPTED,
    "DeletionByTaintManager": FailureKind.NODE_LOST,
    "DeletionByPodGC": FailureKind.NODE_LOST,
}

_BY_REASON = {
    "Evicted": FailureKind.PREEMPTED,
    "Preempting": FailureKind.PREEMPTED,
    "Shutdown": FailureKind.PREEMPTED,
    "NodeShutdown": FailureKind.PREEMPTED,
    "Terminated": FailureKind.PREEMPTED,
    "NodeLost": FailureKind.NODE_LOST,
    "DeadlineExceeded": FailureKind.DEADLINE,
    "UnexpectedAdmissionError": FailureKind.PREFLIGHT,
    "NodeAffinity": FailureKind.PREFLIGHT,
    "TopologyAffinityError": FailureKind.PREFLIGHT,
}

_BY_CONTAINER = {
    "OOMKilled": FailureKind.OUT_OF_MEMORY,
    "ContainerStatusUnknown": FailureKind.NODE_LOST,
    "StartError": FailureKind.IMAGE,
    "ContainerCannotRun": FailureKind.IMAGE,
    "RunContainerError": FailureKind.IMAGE,
    "ErrImagePull": FailureKind.IMAGE,
    "ImagePullBackOff": FailureKind.IMAGE,
    "InvalidImageName": FailureKind.IMAGE,
    "ErrImageNeverPull": FailureKind.IMAGE,
    "ImageInspectError": FailureKind.IMAGE,
    "CreateContainerError": FailureKind.IMAGE,
    "CreateContainerConfigError": FailureKind.IMAGE,
}

_OF_TORCHRUN = 1
_TORCHRUN_CAUSE = re.compile(r"Root Cause.*?exitcode\s*:\s*(-?\d+)", re.DOTALL)
"""How torch.distributed.elastic names the process that failed first (ChildFailedError)."""
_TORCHRUN_STOPPED = re.compile(
    r"(Dist(Store|Network)|RendezvousTimeout|RendezvousConnection)Error|SignalException: .*got signal"
)
"""What torchrun itself ends with when those of the other pods do not come, or when it gets SIGTERM."""

_OVER_ITS_LIMIT = ("exceeds the limit", "exceeds the total limit", "exceeds its limit", "exceeded its local")


def classify_pod(pod: Seen, events: Sequence[Seen] = ()) -> Failure | None:
    """Return what ended one pod; None if it succeeded or nothing speaks against it."""
    if phase(pod) == "Succeeded":
        return None
    code = exit_code(pod)
    if code in _REFUSED:
        return Failure(kind=_BY_CODE[code], evidence=_of_exit(pod))
    return (
        _by_disruption(pod)
        or _by_reason(pod)
        or _by_container(pod)
        or why_pending(pod, events)
        or (Failure(kind=FailureKind.UNKNOWN, evidence=_of_status(pod)) if phase(pod) == "Failed" else None)
    )


def phase(pod: Seen) -> str:
    """Return the pod's phase; `Unknown` if it has none."""
    return str(_status(pod).get("phase") or "Unknown")


def is_waiting(pod: Seen) -> bool:
    """Return whether a pod does not run yet, as far as is known."""
    return phase(pod) in ("Pending", "Unknown")


def has_container_ended(pod: Seen, name: str) -> bool:
    """Return whether a container of a pod has ended, or all of the pod."""
    if phase(pod) in ("Succeeded", "Failed"):
        return True
    states = [each.get("state", {}) for each in _status(pod).get("containerStatuses") or () if each.get("name") == name]
    return any("terminated" in state for state in states)


def exit_code(pod: Seen) -> int | None:
    """Return the exit code of the container that failed first, else 0 if all ended; None while one goes on."""
    states = [container.get("state", {}).get("terminated") for container in _containers(pod)]
    failed = [state for state in states if state and state.get("exitCode")]
    if failed:
        return _first_exit_code(failed[0])
    return None if not states or None in states else 0


def why_pending(pod: Seen, events: Sequence[Seen] = ()) -> Failure | None:
    """Return why a pod does not run yet, in the words of scheduler, kubelet or quota; None: nothing is wrong so far."""
    if not is_waiting(pod):
        return None
    waiting = [container.get("state", {}).get("waiting") or {} for container in _containers(pod)]
    for state in waiting:
        kind = _BY_CONTAINER.get(str(state.get("reason")))
        if kind is not None:
            return Failure(kind=kind, evidence=(sentence(state),))
    scheduled, own = condition(pod, "PodScheduled"), about(pod, events)
    if _has_node(pod):
        return by_kubelet(own)
    if scheduled and scheduled.get("status") == "False":
        gated = scheduled.get("reason") == "SchedulingGated"
        return Failure(kind=FailureKind.QUOTA if gated else FailureKind.UNSCHEDULABLE, evidence=(sentence(scheduled),))
    return by_events(own, (FailureKind.QUOTA, FailureKind.UNSCHEDULABLE))


def what_is_awaited(pod: Seen, events: Sequence[Seen] = ()) -> Failure:
    """Return what a pod waits for of which nothing is wrong so far, as the kind that it is if it never comes."""
    if not _has_node(pod):
        return Failure(kind=FailureKind.UNSCHEDULABLE, evidence=("no reason is given",))
    for container in _status(pod).get("initContainerStatuses") or ():
        if "running" in container.get("state", {}) and not _is_sidecar(pod, container):
            return Failure(kind=FailureKind.SETUP, evidence=(f"its init container {container['name']} still runs",))
    return pulling(about(pod, events)) or Failure(
        kind=FailureKind.PREFLIGHT, evidence=("its node has not started it yet",)
    )


def _has_node(pod: Seen) -> bool:
    scheduled = condition(pod, "PodScheduled")
    return bool(scheduled and scheduled.get("status") == "True")


def _is_sidecar(pod: Seen, container: Seen) -> bool:
    """Return whether an init container is one that runs as long as its pod."""
    told = (pod.get("spec") or {}).get("initContainers") or ()
    return any(each.get("name") == container["name"] and each.get("restartPolicy") == "Always" for each in told)


def by_exit_code(code: int, *, said: Sequence[str] = ()) -> Failure | None:
    """Return what an exit code says, None for 0; negative: the signal that ended a child process."""
    if code == 0:
        return None
    kind = _BY_CODE.get(code, FailureKind.UNKNOWN)
    return Failure(kind=kind, evidence=(f"exit code {code}", *said[-5:]))


def _by_disruption(pod: Seen) -> Failure | None:
    found = condition(pod, "DisruptionTarget")
    if not found or found.get("status") != "True":
        return None
    kind = _BY_DISRUPTION.get(str(found.get("reason")), FailureKind.PREEMPTED)
    return Failure(kind=kind, evidence=(f"DisruptionTarget: {sentence(found)}", *_of_exit(pod)))


def _by_reason(pod: Seen) -> Failure | None:
    status = _status(pod)
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    if reason == "Evicted" and any(words in message for words in _OVER_ITS_LIMIT):
        return Failure(kind=FailureKind.OUT_OF_MEMORY, evidence=_of_status(pod))
    kind = FailureKind.PREFLIGHT if reason.startswith("OutOf") else _BY_REASON.get(reason)
    return Failure(kind=kind, evidence=(*_of_status(pod), *_of_exit(pod))) if kind else None


def _by_container(pod: Seen) -> Failure | None:
    for container in _containers(pod):
        ended = container.get("state", {}).get("terminated")
        if not ended or not ended.get("exitCode"):
            continue
        by_code = by_exit_code(_first_exit_code(ended))
        kind = _BY_CONTAINER.get(str(ended.get("reason"))) or (by_code.kind if by_code else FailureKind.UNKNOWN)
        return Failure(kind=kind, evidence=_of_exit(pod))
    return None


def _first_exit_code(ended: Seen) -> int:
    """Return the exit code of the process that failed first: torchrun ends with 1 whatever that was."""
    code = int(ended["exitCode"])
    if code != _OF_TORCHRUN:
        return code
    told, words = _told(ended).get("exit_code"), str(ended.get("message") or "")
    cause = _TORCHRUN_CAUSE.search(words)
    if not (told or cause) and _TORCHRUN_STOPPED.search(words):
        return ExitCode.INTERRUPTED
    return int(told or (cause[1] if cause else 0)) or code


def _told(ended: Seen) -> Mapping[str, Any]:
    """Return what the trainer itself has left in its container's status; empty if it could not."""
    try:
        told = json.loads(str(ended.get("message")))
    except ValueError:
        return {}
    return told if isinstance(told, dict) and isinstance(told.get("exit_code"), int) else {}


def _status(pod: Seen) -> Seen:
    status = pod.get("status")
    return status if isinstance(status, Mapping) else {}


def _containers(pod: Seen) -> Sequence[Seen]:
    status = _status(pod)
    return [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]


def condition(pod: Seen, kind: str) -> Seen | None:
    """Return a condition of a pod, or of anything else that has conditions; None if it has not come yet."""
    return next((found for found in _status(pod).get("conditions") or () if found.get("type") == kind), None)


def _of_status(pod: Seen) -> tuple[str, ...]:
    words = sentence(_status(pod))
    return (words,) if words else (f"phase {phase(pod)}",)


def _of_exit(pod: Seen) -> tuple[str, ...]:
    """Return how the containers ended; a termination message is the trainer's own, the first of its lines are kept."""
    lines = []
    for container in _containers(pod):
        ended = container.get("state", {}).get("terminated")
        if ended and ended.get("exitCode"):
            told = _told(ended)
            said = {"reason": ended.get("reason"), "message": told["message"]} if told.get("message") else ended
            lines.append(f"exit code {_first_exit_code(ended)}, {sentence(said)}".rstrip(", "))
    return tuple(lines)
