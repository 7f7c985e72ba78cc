"""Latencies as counts on fixed bounds: what a server keeps, Prometheus can tell, and a rollout is decided by."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_STEPS = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)

LATENCY_BOUNDS_MS: tuple[float, ...] = (
    *(float(f"{step}e{power}") for power in range(-1, 4) for step in _STEPS),
    10_000.0,
)
"""Upper bounds of the buckets, ends included, 0.1 ms to 10 s: the preferred numbers R10 of ISO 3, so that usual limits
(1, 2, 5, 10 ms) are bounds and twice a bound is one too. What is longer is in one more bucket."""

MAX_TIMED_PER_S = 50.0
"""Most latencies a second that are measured of a model whose requests come together; each costs an inference."""

NUM_BUCKETS = len(LATENCY_BOUNDS_MS) + 1


def bucket_of(latency_ms: float) -> int:
    """Return the bucket that a latency falls into.

    >>> LATENCY_BOUNDS_MS[bucket_of(10.0)], LATENCY_BOUNDS_MS[bucket_of(10.1)], bucket_of(1e9) == NUM_BUCKETS - 1
    (10.0, 12.5, True)
    """
    return bisect_left(LATENCY_BOUNDS_MS, latency_ms)


def quantile_ms(counts: Sequence[int], frac: float) -> float | None:
    """Return the bound that at least `frac` of the latencies do not exceed; None without one, or beyond the bounds.

    >>> counts = [0] * NUM_BUCKETS
    >>> counts[bucket_of(4.5)] = 99
    >>> quantile_ms(counts, 0.95)
    5.0
    """
    total = sum(counts)
    sums = accumulate(counts)
    bound = next((at for at, reached in enumerate(sums) if total and reached >= frac * total), NUM_BUCKETS - 1)
    return LATENCY_BOUNDS_MS[bound] if total and bound < len(LATENCY_BOUNDS_MS) else None
