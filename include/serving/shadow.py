"""Copies of requests for a version that answers nobody."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from include.serving.scoring import attempt, disagreement_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from include.serving.scoring import Scored

MAX_PENDING = 64
"""Most copies that wait for the shadow; those beyond are dropped, so that a slow shadow slows nothing else."""


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
        loop = asyncio.get_running_loop()

        def work() -> None:
            outcomes = attempt(served, version, "shadow", [scored.columns for scored in copies])
            shadowed = [
                replace(scored, outcomes=(replace(outcome, disagreement=disagreement_of(outcome, scored)),))
                for scored, outcome in zip(copies, outcomes, strict=True)
            ]
            loop.call_soon_threadsafe(self._finish, shadowed)

        self._pool.submit(work)

    def close(self) -> None:
        """Finish what is scored, and forget what waits."""
        self._pool.shutdown(cancel_futures=True)

    def _finish(self, shadowed: Sequence[Scored]) -> None:
        self._num_pending -= len(shadowed)
        self.done(shadowed)
