"""How a training ended: one decision for a child process as for pods, from its result and from what was seen of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.training.failure_kinds import INFRASTRUCTURE, Failure, FailureKind
from include.training.pod_events import by_events
from include.training.pod_status import by_exit_code, classify_pod, is_waiting, phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.training.pod_events import Seen

__all__ = ["Evidence", "Failure", "FailureKind", "Outcome", "classify", "decide_outcome"]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was seen of a training that has ended, or not.

    Attributes:
        exit_code: Of the trainer; negative: the signal that ended a child process. None: not known.
        pods: Its pods, each as it was last seen; empty for a child process.
        events: Kubernetes' events about them.
        has_ended: Whether the trainer itself has ended in all of its pods, whatever else still runs in them.
        is_gone: Whether what ran it is there no more: no pod, no process.
        stopped: Why the watcher itself ended it or gave it up, if it did.
        said: The last lines that the trainer printed.
    """

    exit_code: int | None = None
    pods: Sequence[Seen] = ()
    events: Sequence[Seen] = ()
    has_ended: bool = False
    is_gone: bool = False
    stopped: Failure | None = None
    said: Sequence[str] = ()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        phases = [phase(pod) for pod in self.pods]
        ended = (bool(phases) and (all(p == "Succeeded" for p in phases) or "Failed" in phases)) or self.has_ended
        return self.exit_code is not None or self.is_gone or self.stopped is not None or ended


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a training ended.

    Attributes:
        succeeded: Whether there is a whole result.
        failure: Why not; after a success, what befell the rest of the process, if anything.
    """

    succeeded: bool
    failure: Failure | None = None


def decide_outcome(result: object | None, evidence: Evidence) -> Outcome | None:
    """Return how a training ended; None while it goes on.

    | `result.json` | what ran it | outcome |
    |---|---|---|
    | whole | ended well, badly, not at all, or is gone | success: the result is written last, nothing can undo it |
    | none | goes on | none yet |
    | none | ended well | failure, no result: an exit code alone proves nothing |
    | none | ended badly, was stopped, or is gone | failure, by the evidence |

    Args:
        result: What `read_result` returned: a whole result of this very job, or None.
        evidence: What was seen of what ran it.
    """
    if result is not None:
        return Outcome(succeeded=True, failure=classify(evidence) if evidence.is_over else None)
    if not evidence.is_over:
        return None
    failure = classify(evidence)
    if failure is None:
        failure = Failure(kind=FailureKind.NO_RESULT, evidence=("exit code 0 without result.json", *evidence.said[-5:]))
    return Outcome(succeeded=False, failure=failure)


def classify(evidence: Evidence) -> Failure | None:
    """Return what ended a training by all that was seen; None if everything that was seen ended well.

    Of several pods the one with the most telling reason is the cause: when one is lost, the others only fail after it.
    One that still waits to run has ended nothing: those that were tired of waiting for it start again.
    """
    if evidence.stopped is not None:
        return evidence.stopped
    if evidence.exit_code is not None:
        return by_exit_code(evidence.exit_code, said=evidence.said)
    began = [pod for pod in evidence.pods if not is_waiting(pod)]
    pods = began if any(phase(pod) == "Failed" for pod in began) else evidence.pods
    found = [failure for pod in pods if (failure := classify_pod(pod, evidence.events)) is not None]
    if found:
        return min(found, key=lambda failure: _TELLING.index(failure.kind))
    if evidence.is_gone and not _all_succeeded(evidence.pods):
        return by_events(evidence.events, INFRASTRUCTURE) or Failure(
            kind=FailureKind.VANISHED, evidence=("it is there no more, and nothing says why",)
        )
    return None


_TELLING = (
    FailureKind.CANCELLED,
    FailureKind.BAD_DATA,
    FailureKind.SETUP,
    FailureKind.OUT_OF_MEMORY,
    FailureKind.NODE_LOST,
    FailureKind.PREEMPTED,
    FailureKind.PREFLIGHT,
    FailureKind.DEADLINE,
    FailureKind.IMAGE,
    FailureKind.QUOTA,
    FailureKind.UNSCHEDULABLE,
    FailureKind.USER_ERROR,
    FailureKind.VANISHED,
    FailureKind.INTERRUPTED,
    FailureKind.API_UNREACHABLE,
    FailureKind.NO_RESULT,
    FailureKind.UNKNOWN,
)


def _all_succeeded(pods: Sequence[Seen]) -> bool:
    return bool(pods) and all(phase(pod) == "Succeeded" for pod in pods)
