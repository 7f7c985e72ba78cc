"""How long remote work is waited for, and what ends the waiting: no I/O and no clock, so a trigger only polls.

Time is counted by the watcher's own steady clock, and by differences of the cluster's timestamps: a clock that is wrong
ends nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from include.cluster.conditions import Rule, Verdict, decide
from include.training.failures import Evidence, Failure, FailureKind, classify
from include.training.pod_pending import pending_in_the_cluster_s, why_work_waits
from include.training.pod_status import condition, has_container_ended, is_waiting, phase
from include.training.sweep import has_ended

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.training.pod_events import Seen

Reason = Literal["ended", "gone", "silent", "pending", "stuck", "too_long"]

_STUCK_MARGIN_S = 60.0
"""Beyond its grace: a kubelet that lives has ended the pod by then."""
_LATE_MARGIN_S = 300.0
"""Beyond its deadline, which Kubernetes itself holds as long as the node lives."""
_NUM_EVENTS = 20
_FAILED_BY_A_POD = ("BackoffLimitExceeded", "JobsFailed")
_COMPLETE, _FAILED = [Rule.parse("Complete")], [Rule.parse("Failed")]
"""How a Job and a TrainJob say that they have ended."""
_OF_METADATA = ("name", "uid", "deletionTimestamp")
_OF_STATUS = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses")


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is waited for, and for how long.

    Attributes:
        owner: Path of the object that is the work: the pod, its Job or its TrainJob.
        namespace: Of all of it.
        selector: Labels of the owner's pods; empty: the owner is the pod.
        num_pods: How many the owner wants.
        container: Whose log is followed.
        pending_s: Seconds until it must run.
        running_s: Seconds that it may run.
        grace_s: Seconds that it may take to end when it is told to.
        until_gone: Whether it was told to, and only its end is waited for.
        poll_s: Seconds between two looks.
        silence_s: Seconds without an answer of the API after which the waiting is given up.
    """

    owner: str
    namespace: str
    selector: str = ""
    num_pods: int = 1
    container: str = "base"
    pending_s: float = 1800.0
    running_s: float = 3600.0
    grace_s: float = 60.0
    until_gone: bool = False
    poll_s: float = 5.0
    silence_s: float = 600.0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What one look has shown.

    Attributes:
        owner: The work; None: it is not there.
        pods: Its pods.
        events: About the owner and the pods.
    """

    owner: Seen | None
    pods: Sequence[Seen] = ()
    events: Sequence[Seen] = ()


@dataclass(frozen=True, kw_only=True)
class End:
    """Why the waiting is over, and what was seen last; small enough for a trigger's event, and nothing secret in it.

    Attributes:
        reason: What ended it.
        failure: What the watcher says itself, if it gave up.
        pods: Without their specs.
        events: The newest.
    """

    reason: Reason
    failure: Failure | None = None
    pods: Sequence[Seen] = ()
    events: Sequence[Seen] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        failure = {"kind": self.failure.kind.value, "evidence": list(self.failure.evidence)} if self.failure else None
        return {"reason": self.reason, "failure": failure, "pods": list(self.pods), "events": list(self.events)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote."""
        told = data.get("failure")
        failure = Failure(kind=FailureKind(told["kind"]), evidence=tuple(told["evidence"])) if told else None
        return cls(reason=data["reason"], failure=failure, pods=data["pods"], events=data["events"])

    @property
    def evidence(self) -> Evidence:
        """What it says of the training's end."""
        return Evidence(
            pods=self.pods,
            events=self.events,
            has_ended=self.reason == "ended" and bool(self.pods),
            is_gone=self.reason == "gone",
            stopped=self.failure,
        )


@dataclass(kw_only=True)
class Watcher:
    """Decides after each look whether the waiting is over.

    Attributes:
        watch: What is waited for.
        words: What is new since the last look, for the task's log.
    """

    watch: Watch
    words: str = ""
    _pending_since_s: float | None = None
    _silent_since_s: float | None = None
    _ending_since_s: float | None = None
    _running_since_s: float | None = None
    _is_over: bool = False
    _last: Sight = field(default_factory=lambda: Sight(owner=None))
    _said: str = ""

    def silent(self, *, now_s: float, error: str) -> End | None:
        """Decide after a look that the API did not answer."""
        self.words = ""
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        for_s = now_s - self._silent_since_s
        self._say(f"Kubernetes' API does not answer: {error}")
        if for_s < self.watch.silence_s:
            return None
        return self._end("silent", FailureKind.API_UNREACHABLE, f"no answer for {for_s:.0f} s: {error}")

    def decide(self, sight: Sight, *, now_s: float) -> End | None:
        """Decide after a look.

        Args:
            sight: What it has shown.
            now_s: Seconds of a steady clock.
        """
        self.words, self._silent_since_s = "", None
        if sight.owner is None:
            return self._end("gone")
        self._last = sight
        if ended := self._ended(sight):
            return ended
        if self.watch.until_gone or any(_is_told_to_end(found) for found in (sight.owner, *sight.pods)):
            return self._ending(sight, now_s)
        self._ending_since_s = None
        return self._pending(sight, now_s) if self._is_waiting(sight) else self._running(now_s)

    def _ended(self, sight: Sight) -> End | None:
        if self.watch.until_gone:
            return None
        if self._is_over_beside_others(sight):
            return self._end("ended")
        if not self.watch.selector:
            return self._end("ended") if Evidence(pods=sight.pods).is_over else None
        verdict, words = decide(sight.owner, until=_COMPLETE, failed_if=_FAILED)
        if verdict is not Verdict.FAILED:
            return self._end("ended") if verdict is Verdict.REACHED else None
        if "DeadlineExceeded" in words:
            return self._end("ended", FailureKind.DEADLINE, words)
        if any(phase(pod) == "Failed" for pod in sight.pods):
            return None if _has_more_to_tell(sight) else self._end("ended")
        lost = any(reason in words for reason in _FAILED_BY_A_POD)  # a pod that failed by itself would still be there
        return self._end("ended", FailureKind.VANISHED if lost else FailureKind.UNKNOWN, words)

    def _is_over_beside_others(self, sight: Sight) -> bool:
        """Return whether all trainers have ended while a pod goes on, as one does with a proxy that was put into it.

        That must be seen twice: a pod's phase may come later than the end of its only container.
        """
        ends = [has_container_ended(pod, self.watch.container) for pod in sight.pods]
        was_over = self._is_over
        self._is_over = len(ends) >= self.watch.num_pods and all(ends) and any(map(_goes_on, sight.pods))
        return was_over and self._is_over

    def _is_waiting(self, sight: Sight) -> bool:
        """Return whether a pod does not run yet; one that was there may be gone, as soon as its owner says so."""
        is_whole = len(sight.pods) >= self.watch.num_pods or self._running_since_s is not None
        return not (sight.pods and is_whole) or any(is_waiting(pod) for pod in sight.pods)

    def _ending(self, sight: Sight, now_s: float) -> End | None:
        """Wait for what was told to end, the work or one of its pods; a node that is lost never says that it has."""
        if self._ending_since_s is None:
            self._ending_since_s = now_s
            self._say("it was told to end")
        if now_s - self._ending_since_s < self.watch.grace_s + _STUCK_MARGIN_S:
            return None
        disrupted = next((found for pod in sight.pods if (found := condition(pod, "DisruptionTarget"))), None)
        words = f" ({disrupted.get('message') or disrupted.get('reason')})" if disrupted else ""
        text = f"told to end, and not ended after {now_s - self._ending_since_s:.0f} s{words}"
        return self._end("stuck", FailureKind.NODE_LOST, text)

    def _running(self, now_s: float) -> End | None:
        self._pending_since_s = None
        if self._running_since_s is None:
            self._running_since_s = now_s
            self._say("it runs")
        for_s = now_s - self._running_since_s
        if for_s < self.watch.running_s + _LATE_MARGIN_S:
            return None
        return self._end("too_long", FailureKind.DEADLINE, f"running for {for_s:.0f} s, of {self.watch.running_s:.0f}")

    def _pending(self, sight: Sight, now_s: float) -> End | None:
        found = why_work_waits(sight, num_pods=self.watch.num_pods)
        text = "; ".join(found.evidence)
        self._running_since_s = None
        if self._pending_since_s is None:
            self._pending_since_s = now_s
        for_s = max(now_s - self._pending_since_s, pending_in_the_cluster_s(sight))
        num = sum(phase(pod) == "Running" for pod in sight.pods)
        self._say(f"{f'{num} of {self.watch.num_pods} pods run, and it' if num else 'it'} waits to run: {text}")
        if for_s < self.watch.pending_s:
            return None
        return self._end(
            "pending", found.kind, f"not running after {for_s:.0f} s, of {self.watch.pending_s:.0f}: {text}"
        )

    def _say(self, words: str) -> None:
        if words != self._said:
            self.words = self._said = words

    def _end(self, reason: Reason, kind: FailureKind | None = None, text: str = "") -> End:
        failure = Failure(kind=kind, evidence=(text,)) if kind else None
        pods = [_trimmed(pod, first=self.watch.container) for pod in self._last.pods]
        events = [{key: event.get(key) for key in ("reason", "message")} for event in self._last.events[-_NUM_EVENTS:]]
        return End(reason=reason, failure=failure, pods=pods, events=events)


def _is_told_to_end(found: Seen) -> bool:
    """Return whether an owner or a pod was deleted, and has not ended yet."""
    return bool((found.get("metadata") or {}).get("deletionTimestamp")) and not has_ended(found)


def _has_more_to_tell(sight: Sight) -> bool:
    """Return whether all that ended was interrupted, and a pod that has not ended yet may have been the cause."""
    found = classify(Evidence(pods=sight.pods, events=sight.events))
    is_effect = found is not None and found.kind is FailureKind.INTERRUPTED
    return is_effect and any(phase(pod) == "Running" for pod in sight.pods)


def _goes_on(pod: Seen) -> bool:
    return phase(pod) == "Running"


def _trimmed(pod: Seen, *, first: str) -> dict[str, Any]:
    """Return a pod without its spec, whose environment is nobody's business; the trainer's container comes first."""
    metadata, status = pod.get("metadata") or {}, dict(pod.get("status") or {})
    if "containerStatuses" in status:
        status["containerStatuses"] = sorted(status["containerStatuses"], key=lambda each: each.get("name") != first)
    return {
        "metadata": {key: metadata.get(key) for key in _OF_METADATA},
        "status": {key: status[key] for key in _OF_STATUS if key in status},
    }
