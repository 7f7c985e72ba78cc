"""What a challenger is compared in: for each measure the evidence that it is worse, and that it is not."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from include.rollout.evidence import (
    log_evidence_above,
    log_evidence_below,
    log_evidence_of_mean,
    log_evidence_of_two,
)
from include.rollout.latency import LATENCY_BOUNDS_MS, quantile_ms

if TYPE_CHECKING:
    from include.rollout.decision import Counters, LabelEvidence
    from include.spec import RolloutSpec

_ERROR_STEP = 1.1
_LEAST_ERROR_FRAC = 1e-4
_NUM_ERROR_STEPS = round(math.log(1 / _LEAST_ERROR_FRAC) / math.log(_ERROR_STEP))
ERROR_FRACS = (0.0, *(_LEAST_ERROR_FRAC ** (1 - step / _NUM_ERROR_STEPS) for step in range(_NUM_ERROR_STEPS + 1)))
"""Where a champion's error rate could be: between two neighbours."""

LOSS_RANGE_MARGINS = 1612
"""Most that a loss may differ by on one example, in margins; beyond, it counts as if it differed by so much. With 0.01
nats these are the 16.12 that two log losses can differ by, since they clip probabilities at 1e-7."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure's evidence, as natural logarithms of e-processes.

    Args:
        name: errors, error_limit, latency, disagreement or loss.
        worse: Against "the challenger is not worse".
        not_worse: Against "it is worse by the margin or more".
        found: What was counted, in words.
        is_needed: Whether a version must be shown not to be worse to pass.
    """

    name: str
    worse: float
    not_worse: float
    found: str
    is_needed: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the measure for the ledger; JSON has no infinity."""
        return {
            "worse": round(min(max(self.worse, -_MOST_TOLD), _MOST_TOLD), 3),
            "not_worse": round(min(max(self.not_worse, -_MOST_TOLD), _MOST_TOLD), 3),
            "found": self.found,
        }


_MOST_TOLD = 1e9


def error_increase(*, challenger: Counters, champion: Counters, margin: float) -> Measure:
    """Compare error rates: worse is p_c > p_0, not worse is p_c < p_0 + margin."""
    ours, theirs = (challenger.errors, challenger.requests), (champion.errors, champion.requests)
    worse = log_evidence_of_two(
        (
            log_evidence_above(ours[0], num=ours[1], limit=high),
            log_evidence_below(theirs[0], num=theirs[1], limit=low) if low else 0.0,
        )
        for low, high in pairwise(ERROR_FRACS)
    )
    not_worse = log_evidence_of_two(
        (
            math.inf if low + margin > 1 else log_evidence_below(ours[0], num=ours[1], limit=low + margin),
            log_evidence_above(theirs[0], num=theirs[1], limit=high),
        )
        for low, high in pairwise(ERROR_FRACS)
    )
    found = f"{ours[0]} of {ours[1]} requests failed (champion {theirs[0]} of {theirs[1]}, margin {margin:g})"
    return Measure(name="errors", worse=worse, not_worse=not_worse, found=found)


def error_limit(*, challenger: Counters, limit: float) -> Measure:
    """Compare the error rate with a limit of its own, whatever the champion does: worse is p_c > limit."""
    errors, num = challenger.errors, challenger.requests
    return Measure(
        name="error_limit",
        worse=log_evidence_above(errors, num=num, limit=limit),
        not_worse=log_evidence_below(errors, num=num, limit=limit),
        found=f"{errors} of {num} requests failed (at most {limit:g})",
        is_needed=False,
    )


def latency(*, challenger: Counters, champion: Counters, rollout: RolloutSpec) -> Measure:
    """Compare a quantile of the latency: worse is q_c > max(floor, ratio q_0), not worse is q_c below it.

    Whether a quantile is below a bound is whether a latency is below it with that probability, which makes latencies
    coins (Howard, Ramdas, Bernoulli 28, 2022, "Sequential estimation of quantiles"), for all bounds at once.
    """
    frac = rollout.latency_quantile
    ours, theirs = _at_most(challenger), _at_most(champion)
    worse, not_worse = [], []
    for at, (low, high) in enumerate(pairwise((0.0, *LATENCY_BOUNDS_MS, math.inf))):
        may = bisect_left(LATENCY_BOUNDS_MS, max(rollout.latency_floor_ms, rollout.max_latency_ratio * high))
        must = bisect_right(LATENCY_BOUNDS_MS, max(rollout.latency_floor_ms, rollout.max_latency_ratio * low)) - 1
        below_low, below_high = (theirs[at - 1] if at else 0), theirs[at]
        worse.append(
            (
                log_evidence_below(ours[may], num=ours[-1], limit=frac),
                log_evidence_above(below_low, num=theirs[-1], limit=frac),
            )
        )
        not_worse.append(
            (
                log_evidence_above(ours[must] if must >= 0 else 0, num=ours[-1], limit=frac),
                log_evidence_below(below_high, num=theirs[-1], limit=frac),
            )
        )
    found = (
        f"p{100 * frac:g} of {ours[-1]} latencies {_told(challenger, frac)} (champion {_told(champion, frac)}, at most "
        f"{rollout.max_latency_ratio:g} times that or {rollout.latency_floor_ms:g} ms)"
    )
    return Measure(
        name="latency", worse=log_evidence_of_two(worse), not_worse=log_evidence_of_two(not_worse), found=found
    )


def disagreement(*, shadow: Counters, limit: float, margin: float) -> Measure:
    """Compare a shadow's predictions, pair by pair: worse is a share of rows above the limit, not worse below both.

    A request adds the share of its rows that differ, so that large requests weigh no more than small ones.
    """
    total, num = shadow.num_disagreements, shadow.num_pairs
    share = f"{total / num:.3f} of the rows" if num else "none"
    return Measure(
        name="disagreement",
        worse=log_evidence_above(total, num=num, limit=limit),
        not_worse=log_evidence_below(total, num=num, limit=limit + margin) if limit + margin < 1 else math.inf,
        found=f"{share} of {num} requests differ from the champion's (at most {limit:g}, margin {margin:g})",
    )


def loss(*, labels: LabelEvidence, margin: float, is_needed: bool) -> Measure:
    """Compare the loss on late labels: worse is a mean difference above 0, not worse one below the margin.

    One example may lose `LOSS_RANGE_MARGINS` margins more, so fewer examples than that say little, however equal.
    Labels that may not come in time are a condition of a pass only if they are needed.
    """
    evidence = partial(
        log_evidence_of_mean, num=labels.num, total_squares=labels.total_squares, reach=LOSS_RANGE_MARGINS * margin
    )
    seen = f"{labels.mean:+.4g} over {labels.num} labels"
    return Measure(
        name="loss",
        worse=evidence(labels.total, limit=0.0),
        not_worse=evidence(-labels.total, limit=-margin),
        found=f"loss differs by {seen} of deviation {labels.deviation:.4g} (at most {margin:g})",
        is_needed=is_needed,
    )


def _at_most(counted: Counters) -> list[int]:
    """Return for each bound how many latencies do not exceed it, the number of all last."""
    return list(accumulate(counted.latency_counts)) or [0] * (len(LATENCY_BOUNDS_MS) + 1)


def _told(counted: Counters, frac: float) -> str:
    value = quantile_ms(counted.latency_counts, frac)
    return f"{value:g} ms" if value is not None else "unknown" if not sum(counted.latency_counts) else "beyond 10 s"
