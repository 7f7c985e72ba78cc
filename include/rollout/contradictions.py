"""Counts that cannot be: evidence made of them would be none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.rollout.latency import NUM_BUCKETS

if TYPE_CHECKING:
    from include.rollout.decision import Counters, RolloutState

_ROUNDING = 1e-6


def problems_of(counted: Counters) -> list[str]:
    """Return in what way counts contradict themselves; empty: they do not."""
    scored = counted.requests - counted.errors
    problems = []
    if counted.requests < 0 or counted.errors < 0 or scored < 0 or min(counted.latency_counts, default=0) < 0:
        problems.append(f"{counted.errors} of {counted.requests} requests failed, which cannot be")
    if len(counted.latency_counts) not in (0, NUM_BUCKETS):
        problems.append(f"{len(counted.latency_counts)} latency buckets instead of {NUM_BUCKETS}")
    elif sum(counted.latency_counts) > scored:
        problems.append(f"{sum(counted.latency_counts)} latencies of {scored} scored requests")
    if not 0 <= counted.num_disagreements <= counted.num_pairs + _ROUNDING or counted.num_pairs > scored:
        problems.append(
            f"{counted.num_disagreements:g} disagreements of {counted.num_pairs} pairs of {scored} requests"
        )
    return problems


def runs_backwards(before: RolloutState, now: RolloutState) -> list[str]:
    """Return which counts fell although the routes are the same: whoever counts lost some, and evidence with them."""
    if before.revision != now.revision:
        return []
    return [
        f"version {version} as {role} had {old.requests} requests and now {now.of(version, role).requests}"
        for (version, role), old in before.counters.items()
        if now.of(version, role).requests < old.requests
    ]
