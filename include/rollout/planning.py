"""What a rollout needs before it begins: requests and time of each stage, from the spec and the traffic alone."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from include.rollout.decision import Counters, measures_of, thresholds
from include.rollout.latency import MAX_TIMED_PER_S, NUM_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.rollout.decision import Stage
    from include.spec import RolloutSpec

_FULL_PCT = 100.0
_MOST_REQUESTS = 10_000_000
_HEALTHY_SLOW_FRAC = 0.1
"""Of a healthy version's requests, the share beyond the limit of the latency is taken as so much of the share that may
be: a limit of twice the 95th percentile is exceeded by 0.5 % rather than by 5 %."""
_HEALTHY_DISAGREEMENT_FRAC = 0.5
"""A healthy shadow is taken to disagree on half of the rows that it may."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage of a rollout needs.

    Args:
        name: shadow, or the canary's share.
        share_pct: The canary's share in per cent; 0 for the shadow.
        num_own: Requests that the challenger must score to pass, with the power of the spec, if it is healthy.
        num_requests: Requests to the model until then.
        num_to_fail: Requests to the model until a version that fails on as many more as the margin is found.
        seconds: How long `num_requests` take at the traffic, or their latencies where these are fewer; None: not known.
        limit_s: Seconds after which the stage is inconclusive.
    """

    name: str
    share_pct: float
    num_own: int
    num_requests: int
    num_to_fail: int
    seconds: float | None
    limit_s: float

    @property
    def is_too_slow(self) -> bool:
        """Whether the traffic is too thin for the stage's limit."""
        return self.seconds is not None and self.seconds > self.limit_s

    @property
    def least_share_pct(self) -> float | None:
        """Whole per cent that settle in time at the traffic, with power; None: no share does, or it is not known."""
        if self.seconds is None or not self.share_pct:
            return None
        share_pct = float(math.ceil(self.share_pct * self.seconds / self.limit_s))
        return share_pct if share_pct < _FULL_PCT else None

    def to_json(self) -> dict[str, Any]:
        """Return the plan for the ledger."""
        return asdict(self)


def plan_rollout(rollout: RolloutSpec, *, requests_per_s: float | None) -> tuple[StagePlan, ...]:
    """Return what each stage needs, in order.

    Requests come one by one, so that each is timed. A healthy version fails none, exceeds the limit of the latency in a
    tenth of the cases that it may, and disagrees in half of them. The power is 1 - `missed_regression_prob`: so many
    more of its requests may be slow or disagree than expected, by the binomial distribution's quantile.

    Args:
        rollout: The spec.
        requests_per_s: Requests to the model; None: not known.
    """
    stages: list[tuple[str, Stage, float]] = [("shadow", "shadow", 0.0)] if rollout.has_shadow else []
    stages += [(f"{share_pct:g} %", "canary", share_pct) for share_pct in rollout.shares_pct]
    return tuple(
        _plan_stage(name, stage, share_pct, rollout=rollout, requests_per_s=requests_per_s)
        for name, stage, share_pct in stages
    )


def _plan_stage(
    name: str, stage: Stage, share_pct: float, *, rollout: RolloutSpec, requests_per_s: float | None
) -> StagePlan:
    fail_at, pass_at = thresholds(rollout, num_measures=_num_measures(rollout, stage))
    others_each = 1.0 if stage == "shadow" else (_FULL_PCT - share_pct) / share_pct
    all_each = 1.0 if stage == "shadow" else _FULL_PCT / share_pct

    def passes(num: int) -> bool:
        own, champion = _healthy(num, rollout=rollout), Counters(requests=round(num * others_each))
        found = measures_of(challenger=own, champion=champion, rollout=rollout, stage=stage)
        return all(measure.not_worse >= pass_at for measure in found if measure.is_needed and measure.name != "loss")

    def fails(num: int) -> bool:
        errors = math.floor(num * rollout.max_error_increase_frac)
        champion = Counters(requests=round(num * others_each))
        found = measures_of(
            challenger=Counters(requests=num, errors=errors), champion=champion, rollout=rollout, stage=stage
        )
        return any(measure.worse >= fail_at for measure in found)

    num_own = _least(passes)
    num_requests = math.ceil(num_own * all_each)
    return StagePlan(
        name=name,
        share_pct=share_pct,
        num_own=num_own,
        num_requests=num_requests,
        num_to_fail=math.ceil(_least(fails) * all_each),
        seconds=None if requests_per_s is None else num_requests / min(requests_per_s, MAX_TIMED_PER_S),
        limit_s=rollout.step_timeout_s,
    )


def _num_measures(rollout: RolloutSpec, stage: Stage) -> int:
    return len(measures_of(challenger=Counters(), champion=Counters(), rollout=rollout, stage=stage))


def _healthy(num: int, *, rollout: RolloutSpec) -> Counters:
    """Return what a healthy version has counted after so many requests, on the bad side of chance."""
    prob = rollout.missed_regression_prob
    slow = binomial_quantile(num, frac=(1 - rollout.latency_quantile) * _HEALTHY_SLOW_FRAC, prob=1 - prob)
    differing = binomial_quantile(num, frac=rollout.max_disagreement_frac * _HEALTHY_DISAGREEMENT_FRAC, prob=1 - prob)
    counts = [0] * NUM_BUCKETS
    counts[0], counts[-1] = num - slow, slow
    return Counters(requests=num, latency_counts=tuple(counts), num_pairs=num, num_disagreements=differing)


def binomial_quantile(num: int, *, frac: float, prob: float) -> int:
    """Return the smallest k with P(X <= k) >= prob, X of `num` trials of probability `frac`.

    By the terms' recurrence for up to a thousand expected, else by the normal approximation.

    >>> binomial_quantile(100, frac=0.01, prob=0.95), binomial_quantile(10, frac=0.0, prob=0.95)
    (3, 0)
    """
    mean = num * frac
    if mean > 1000:  # noqa: PLR2004 - said above
        deviations = math.sqrt(-2 * math.log(1 - prob))  # a little more than the quantile, by Chernoff's bound
        return min(num, math.ceil(mean + deviations * math.sqrt(mean * (1 - frac))))
    odds = frac / (1 - frac) if frac < 1 else math.inf
    if math.isinf(odds):
        return num
    term = reached = math.exp(num * math.log1p(-frac))
    k = 0
    while reached < prob and k < num:
        term *= odds * (num - k) / (k + 1)
        k += 1
        reached += term
    return k


def _least(is_enough: Callable[[int], bool]) -> int:
    """Return about the smallest number of requests that is enough, to 2 %; the largest where none is."""
    low, high = 0, 1
    while not is_enough(high):
        if high >= _MOST_REQUESTS:
            return _MOST_REQUESTS
        low, high = high, high * 2
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
