"""How often machines have interrupted a training: counted apart from the user's retries, and kept over tries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

from include.training.failure_kinds import FailureKind

_FIRST_S = 10.0
_MAX_S = 600.0
_NUM_A_DOUBLING = 5
"""Interruptions in all after which the back-off is twice as long, new checkpoints or not."""
_IN_ALL_FACTOR = 10
"""So many times the limit of those in a row there may be in all."""
STATE_KEY = "tradewind_interruptions"
_ANEW = "A retry of the task counts anew."
_NO_RESULT_AGAIN = (
    "That was the second time in a row, so no retry follows. See that its command is the trainer's and that it writes "
    "into the task's own lake, then clear the task."
)


class Store(Protocol):
    """What keeps plain values of a task over its tries; Airflow's task state store is one."""

    def get(self, key: str) -> Any:
        """Return a value, None if there is none."""
        ...

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        ...


@dataclass(kw_only=True)
class Interruptions:
    """The count of one job.

    Attributes:
        job_key: The job; another one begins to count anew.
        store: Keeps the count; None: it is kept nowhere.
        num: Interruptions since there was a new checkpoint.
        waited_s: Seconds that were waited for room or for an answer of the cluster.
        last: What the last one was.
        checkpoint: The newest one by then; empty: there was none.
        total: Interruptions in all.
    """

    job_key: str
    store: Store | None
    num: int = 0
    waited_s: float = 0.0
    last: str = ""
    checkpoint: str = ""
    total: int = 0

    @classmethod
    def of(cls, job_key: str, store: Store | None) -> Self:
        """Return what is kept of a job."""
        kept = store.get(STATE_KEY) if store is not None else None
        found = cls(job_key=job_key, store=store)
        if isinstance(kept, dict) and kept.get("job") == job_key:
            found.num, found.waited_s, found.last = int(kept["num"]), float(kept["waited_s"]), str(kept["last"])
            found.checkpoint, found.total = str(kept.get("checkpoint", "")), int(kept.get("total", found.num))
        return found

    @property
    def back_off_s(self) -> float:
        """Seconds until the next start, ten minutes at most: twice as many each time, and for each five in all."""
        return min(_MAX_S, _FIRST_S * 2 ** max(0, self.num - 1, self.total // _NUM_A_DOUBLING))

    def count(self, kind: FailureKind, *, limit: int, checkpoint: str | None) -> str:
        """Count one more; return why no start follows, empty if one does.

        Args:
            kind: What it was.
            limit: How many there may be in a row without a new checkpoint; ten times as many in all.
            checkpoint: URI of the newest one, which names its step; None: there is none.
        """
        is_same, newest = self.last == kind, checkpoint or ""
        self.num = 1 if newest > self.checkpoint else self.num + 1
        self.total += 1
        self.waited_s, self.last, self.checkpoint = 0.0, kind.value, newest
        why = ""
        if self.num > limit:
            why = f"That was interruption {self.num} without a new checkpoint, of {limit} that are allowed. {_ANEW}"
        elif self.total > (most := limit * _IN_ALL_FACTOR):
            why = f"That was interruption {self.total} in all, of {most} that are allowed with new checkpoints. {_ANEW}"
        elif is_same and kind is FailureKind.NO_RESULT:
            why = _NO_RESULT_AGAIN
        self._keep()
        if why:
            self.reset()
        return why

    def wait(self, wait_s: float) -> None:
        """Add to the seconds waited."""
        self.waited_s += wait_s
        self._keep()

    def wait_over(self) -> None:
        """Begin the next wait at 0."""
        if self.waited_s:
            self.waited_s = 0.0
            self._keep()

    def reset(self) -> None:
        """Begin anew."""
        if self.num or self.waited_s:
            self.num, self.total, self.waited_s, self.last = 0, 0, 0.0, ""
            self._keep()

    def _keep(self) -> None:
        if self.store is not None:
            kept = {"job": self.job_key, "num": self.num, "waited_s": self.waited_s, "last": self.last}
            self.store.set(STATE_KEY, {**kept, "checkpoint": self.checkpoint, "total": self.total})
