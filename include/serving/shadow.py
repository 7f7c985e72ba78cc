"""Copies of requests for a version that answers nobody."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from include.serving.scoring import attempt, disagreement_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from include.serving.scoring import Scored

MAX_PENDING = 64
"""While so many copies wait for the shadow, others are dropped, so that a slow shadow slows nothing else."""
GATHER = 32
GATHER_S = 0.005
"""Batches of so many copies, or of so long, are scored in one turn: to wake a thread costs more than to score one."""
BUSY_SHARE = 0.01
"""Most of a core's time that shadows take while callers wait for a worker: copies are evidence, answers are duty."""


@dataclass(kw_only=True)
class Mirror:
    """Has shadows score copies, later and on a thread of their own; nobody waits for them. Used by the event loop.

    Args:
        done: Is told in the event loop what a shadow scored.
        dropped: Is told how many copies were too many.
        is_busy: Whether callers wait for a worker.
    """

    done: Callable[[Sequence[Scored]], None]
    dropped: Callable[[int], None]
    is_busy: Callable[[], bool]
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "shadow"))
    _waiting: list[Sequence[Scored]] = field(default_factory=list)
    _num_waiting: int = 0
    _is_working: bool = False
    _rest_until: float = 0.0
    _alarm: asyncio.TimerHandle | None = None

    def copy(self, batch: Sequence[Scored]) -> None:
        """Have the shadow of a batch's model score the batch."""
        served = batch[0].served if batch else None
        version = served.routes.shadow if served else None
        if served is None or version is None or version not in served.versions:
            return
        if self._num_waiting >= MAX_PENDING:  # whatever its size: else those of busy moments were missing
            self.dropped(len(batch))
            return
        self._waiting.append(batch)
        self._num_waiting += len(batch)
        self._arrange(asyncio.get_running_loop())

    def close(self) -> None:
        """Finish what is scored, and forget what waits."""
        self._forget_alarm()
        self._pool.shutdown(cancel_futures=True)

    def _arrange(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have a turn begun after the rest: at once if enough copies wait, else soon."""
        if self._is_working or not self._waiting:
            return
        rest_s = self._rest_until - loop.time()
        if rest_s <= 0 and self._num_waiting >= GATHER:
            self._begin(loop)
        elif self._alarm is None:
            self._alarm = loop.call_later(max(rest_s, GATHER_S), self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._forget_alarm()
        batches, self._waiting, self._num_waiting = self._waiting, [], 0
        with suppress(RuntimeError):  # the pool is closed: the server ends
            self._pool.submit(self._work, loop, batches)
            self._is_working = True

    def _forget_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _work(self, loop: asyncio.AbstractEventLoop, batches: Sequence[Sequence[Scored]]) -> None:
        started_s = time.thread_time()
        shadowed: list[Scored] = []
        try:
            for batch in batches:
                shadowed += _shadowed([scored for scored in batch if _is_timed(scored)], is_timed=True)
                shadowed += _shadowed([scored for scored in batch if not _is_timed(scored)], is_timed=False)
        finally:
            loop.call_soon_threadsafe(self._finish, loop, shadowed, time.thread_time() - started_s)

    def _finish(self, loop: asyncio.AbstractEventLoop, shadowed: Sequence[Scored], worked_s: float) -> None:
        started_s = time.thread_time()
        self.done(shadowed)
        worked_s += time.thread_time() - started_s
        if self.is_busy():
            self._rest_until = loop.time() + worked_s * (1 / BUSY_SHARE - 1)
        self._is_working = False
        self._arrange(loop)


def _is_timed(scored: Scored) -> bool:
    """Return whether a request is the one of its turn that was timed, and the champion's: the shadow's latency too."""
    first = scored.outcomes[0]
    return first.role == "champion" and first.latency_ms is not None


def _shadowed(batch: Sequence[Scored], *, is_timed: bool) -> list[Scored]:
    """Return what the shadow makes of a batch."""
    if not batch:
        return []
    served = batch[0].served
    columns = [scored.columns for scored in batch]
    outcomes = attempt(served, served.routes.shadow, "shadow", columns, is_timed=is_timed)
    return [
        replace(scored, outcomes=(replace(outcome, disagreement=disagreement_of(outcome, scored)),))
        for scored, outcome in zip(batch, outcomes, strict=True)
    ]
