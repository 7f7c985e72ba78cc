"""Copies of requests for a version that answers nobody."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

from include.serving.scoring import attempt, disagreement_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from include.serving.scoring import Scored

MAX_PENDING = 256
"""Most copies that wait for the shadow; those beyond are dropped, so that a slow shadow slows nothing else."""
GATHER = 32
GATHER_S = 0.005
"""So many copies, or those of so long, are scored in one turn: to wake a thread costs more than to score a copy."""


@dataclass(kw_only=True)
class Mirror:
    """Has shadows score copies, later and on a thread of their own; nobody waits for them. Used by the event loop.

    Args:
        done: Is told in the event loop what a shadow scored.
        dropped: Is told how many copies were too many.
    """

    done: Callable[[Sequence[Scored]], None]
    dropped: Callable[[int], None]
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "shadow"))
    _num_pending: int = 0
    _waiting: list[Scored] = field(default_factory=list)
    _alarm: asyncio.TimerHandle | None = None

    def copy(self, batch: Sequence[Scored]) -> None:
        """Have the shadow of a batch's model score the batch."""
        served = batch[0].served if batch else None
        version = served.routes.shadow if served else None
        if served is None or version is None or version not in served.versions:
            return
        copies = batch[: max(0, MAX_PENDING - self._num_pending)]
        self.dropped(len(batch) - len(copies))
        if not copies:
            return
        self._num_pending += len(copies)
        self._waiting += copies
        loop = asyncio.get_running_loop()
        if len(self._waiting) >= GATHER:
            self._begin(loop)
        elif self._alarm is None:
            self._alarm = loop.call_later(GATHER_S, self._begin, loop)

    def close(self) -> None:
        """Finish what is scored, and forget what waits."""
        self._forget_alarm()
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._forget_alarm()
        copies, self._waiting = self._waiting, []
        with suppress(RuntimeError):  # the pool is closed: the server ends
            self._pool.submit(self._work, loop, copies)

    def _forget_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _work(self, loop: asyncio.AbstractEventLoop, copies: Sequence[Scored]) -> None:
        shadowed: list[Scored] = []
        for _, group in groupby(copies, key=lambda scored: id(scored.served)):
            together = list(group)
            served = together[0].served
            outcomes = attempt(served, served.routes.shadow, "shadow", [scored.columns for scored in together])
            shadowed += [
                replace(scored, outcomes=(replace(outcome, disagreement=disagreement_of(outcome, scored)),))
                for scored, outcome in zip(together, outcomes, strict=True)
            ]
        loop.call_soon_threadsafe(self._finish, shadowed)

    def _finish(self, shadowed: Sequence[Scored]) -> None:
        self._num_pending -= len(shadowed)
        self.done(shadowed)
