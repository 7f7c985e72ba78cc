"""Copies of requests for a version that answers nobody."""

from __future__ import annotations

import asyncio
import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from include.serving.agreement import disagreement_frac
from include.serving.scoring import attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from include.serving.scoring import Outcome, Scored

MAX_PENDING = 64
"""While so many copies wait for the shadow, others are dropped, so that a slow shadow slows nothing else."""
GATHER = 32
GATHER_S = 0.005
"""Batches of so many copies, or of so long, are scored in one turn: to wake a thread costs more than to score one."""
BUSY_SHARE = 0.01
"""Most of a core's time that a shadow takes while callers wait for a worker: copies are evidence, answers are duty."""
BUSY_S = 0.005
"""While callers wait, a turn of shadows begins nothing more after so long: a slow one scores one copy of a turn."""


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
    _rest_until: dict[tuple[str, str], float] = field(default_factory=dict)
    _alarm: asyncio.TimerHandle | None = None

    def copy(self, batch: Sequence[Scored]) -> None:
        """Have the shadow of a batch's model score the batch."""
        served = batch[0].served if batch else None
        version = served.routes.shadow if served else None
        if served is None or version is None or version not in served.versions:
            return
        loop = asyncio.get_running_loop()
        rests = loop.time() < self._rest_until.get((served.spec.name, version), 0.0) and self.is_busy()
        if rests or self._num_waiting >= MAX_PENDING:  # whatever its size: else those of busy moments were missing
            self.dropped(len(batch))
            return
        self._waiting.append(batch)
        self._num_waiting += len(batch)
        self._arrange(loop)

    def close(self) -> None:
        """Finish what is scored; any thread may call this. The loop forgets what waits when it would begin it."""
        self._pool.shutdown(cancel_futures=True)

    def _arrange(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have a turn begun: at once if enough copies wait, else soon."""
        if self._is_working or not self._waiting:
            return
        if self._num_waiting >= GATHER:
            self._begin(loop)
        elif self._alarm is None:
            self._alarm = loop.call_later(GATHER_S, self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._forget_alarm()
        batches, self._waiting, self._num_waiting = self._waiting, [], 0
        with suppress(RuntimeError):  # the pool is closed: the server ends
            self._pool.submit(self._work, loop, batches, BUSY_S if self.is_busy() else math.inf)
            self._is_working = True

    def _forget_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _work(self, loop: asyncio.AbstractEventLoop, batches: Sequence[Sequence[Scored]], limit_s: float) -> None:
        started_s = time.thread_time()
        shadowed: list[Scored] = []
        try:
            for part, is_timed in _parts(batches):
                if shadowed and time.thread_time() - started_s > limit_s:
                    break
                shadowed += _shadowed(part, is_timed=is_timed)
        finally:
            loop.call_soon_threadsafe(self._finish, loop, batches, shadowed, time.thread_time() - started_s)

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batches: Sequence[Sequence[Scored]],
        shadowed: Sequence[Scored],
        worked_s: float,
    ) -> None:
        started_s = time.thread_time()
        self.done(shadowed)
        if num_left := sum(map(len, batches)) - len(shadowed):
            self.dropped(num_left)
        now_s = loop.time()
        rest_s = (worked_s + time.thread_time() - started_s) * (1 / BUSY_SHARE - 1)
        keys = {(batch[0].served.spec.name, str(batch[0].served.routes.shadow)) for batch in batches}
        resting = {key: until_s for key, until_s in self._rest_until.items() if until_s > now_s}
        self._rest_until = resting | dict.fromkeys(keys, now_s + rest_s)
        self._is_working = False
        self._arrange(loop)


def _parts(batches: Sequence[Sequence[Scored]]) -> Iterator[tuple[Sequence[Scored], bool]]:
    """Yield of each copied turn a request that the champion answered, drawn by lot and timed alone, then the others."""
    for batch in batches:
        answered = [number for number, scored in enumerate(batch) if scored.outcomes[0].role == "champion"]
        timed = random.choice(answered) if answered else None  # noqa: S311 - nothing secret
        if timed is not None:
            yield [batch[timed]], True
        if others := [scored for number, scored in enumerate(batch) if number != timed]:
            yield others, False


def _shadowed(batch: Sequence[Scored], *, is_timed: bool) -> list[Scored]:
    """Return what the shadow makes of requests."""
    served = batch[0].served
    columns = [scored.columns for scored in batch]
    outcomes = attempt(served, served.routes.shadow, "shadow", columns, is_timed=is_timed)
    return [
        replace(scored, outcomes=(replace(outcome, disagreement=_disagreement(outcome, scored)),))
        for scored, outcome in zip(batch, outcomes, strict=True)
    ]


def _disagreement(shadowed: Outcome, scored: Scored) -> float | None:
    """Return the share of a request's rows that a shadow predicted otherwise than the champion; None: one failed."""
    answered = scored.outcomes[-1]
    if answered.role != "champion" or answered.predictions is None or shadowed.predictions is None:
        return None
    tolerance = scored.served.spec.rollout.agreement_tolerance
    return disagreement_frac(ours=shadowed.predictions, theirs=answered.predictions, tolerance=tolerance)
