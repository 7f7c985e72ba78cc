"""Which turns of the workers are timed, each by one request that is scored alone.

What is scored together is slow together, and a canary's part of a turn is smaller than a champion's. So a turn has one
latency, of a request that is drawn by lot (callers that ask again at once keep their places), and of the version that
this request belongs to: each version has its share of the turns that are timed, in busy moments as in quiet ones.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from include.rollout.latency import MAX_TIMED_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from include.serving.scoring import Result

TIMED_EVERY_S = 1 / MAX_TIMED_PER_S
"""Least time between two turns of several requests that are timed."""
ALONE_FRAC = 0.1
"""Most of a model's time in which one request is scored alone while others wait for the same turn."""


@dataclass(kw_only=True)
class TurnClock:
    """Chooses turns by the time since the last, before they begin: what is in them has nothing to do with it.

    Its callers are several threads; two of them at once time a turn too many.

    Args:
        now_s: Tells the time.
    """

    now_s: Callable[[], float] = time.monotonic
    _rest_until_s: dict[str, float] = field(default_factory=dict)

    def is_due(self, model: str, *, num_requests: int) -> bool:
        """Return whether a turn of so many requests to a model is timed; a request that comes alone costs no more."""
        if num_requests == 1:
            return True
        now_s = self.now_s()
        if now_s < self._rest_until_s.get(model, -math.inf):
            return False
        self._rest_until_s[model] = now_s + TIMED_EVERY_S
        return True

    def timed(self, model: str, turn: Sequence[Result]) -> None:
        """Let a model rest after a turn that was timed, the longer the slower it is."""
        if len(turn) > 1:
            outcomes = [outcome for result in turn if not isinstance(result, Exception) for outcome in result.outcomes]
            taken_s = max((outcome.latency_ms or 0.0 for outcome in outcomes), default=0.0) / 1e3
            self._rest_until_s[model] = max(self._rest_until_s[model], self.now_s() + taken_s / ALONE_FRAC)
