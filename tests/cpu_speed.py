"""How fast this machine is, for limits on processor time."""

from __future__ import annotations

import time

_REFERENCE_S = 0.03
"""Of the machine on which the limits were measured."""


def slowdown() -> float:
    """Return how many times longer a fixed piece of work takes here than where the limits were measured; at least 1."""
    spent_s = []
    for _ in range(3):
        before_s = time.process_time()
        sum(number * number for number in range(1_000_000))
        spent_s.append(time.process_time() - before_s)
    return max(1.0, min(spent_s) / _REFERENCE_S)
