"""Evidence that may be looked at at any time: e-processes of counts.

An e-process of a hypothesis is a number that grows from 1 as data speak against it and whose expectation is at most 1
at every moment that may be chosen, in hindsight too, while the hypothesis is true. By Ville's inequality (1939) it
ever reaches 1/a with a probability of at most a: who looks after every request and stops when it suits is promised as
much as who looks once. Numbers here are natural logarithms of such evidence.

One request adds a number between 0 and 1 (it failed or not, it was slower or not, the share of its rows that differ).
`log_evidence_above` bets on a few larger means at once: the average over them of likelihood ratios (mixture: Robbins,
Ann. Math. Statist. 41, 1970). It is an e-process of "given all before, no request's mean exceeds the limit", whatever
the requests depend on, since a number within 0 and 1 has at most the moment generating function of a coin of its mean
(Howard, Ramdas, McAuliffe, Sekhon, Probability Surveys 17, 2020, on sub-Bernoulli processes). It is a function of two
counts, so that it needs no history.

Of two versions neither mean is known. `log_evidence_of_two` takes all that the champion's could be, multiplies the
evidence against the challenger's hypothesis there with that against the champion's being there, and believes the
weakest product: whatever the truth is, its product is an e-process, and no other one is larger (the infimum over a
nuisance parameter, as in Ramdas, Grünwald, Vovk, Shafer, Statistical Science 38, 2023, section 5).

Late labels add differences of losses, whose mean hides what is rare and large. `log_evidence_of_mean` knows of each
only that it is at most so far below the limit, and is a function of their number, sum and sum of squares.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_NUM_ALTERNATIVES = 8
_SPACING = 1.6
_EXTREME_WEIGHT = 0.2
"""A fifth of the bet is on what is usual of healthy versions: no error at all, or every latency below the limit."""


def log_evidence_above(total: float, *, num: int, limit: float) -> float:
    """Return the evidence that the mean of `num` numbers within 0 and 1, which sum to `total`, exceeds the limit.

    log sum_i w_i (t_i / l)^S ((1 - t_i) / (1 - l))^(n - S), with means t_i from near the limit l up to 1.

    >>> round(math.exp(log_evidence_above(3, num=3, limit=0.1)))  # at least a fifth of (1 / 0.1)^3
    282
    >>> log_evidence_above(0, num=100, limit=0.1) < 0
    True
    """
    if limit >= 1 or num == 0:
        return 0.0
    if limit <= 0:
        return math.inf if total > 0 else 0.0
    total = min(max(total, 0.0), float(num))
    return log_sum(
        log_weight + total * log_hit + (num - total) * log_miss if total < num else log_weight + total * log_hit
        for log_weight, log_hit, log_miss in bets(limit)
    )


def log_evidence_below(total: float, *, num: int, limit: float) -> float:
    """Return the evidence that the mean of `num` numbers within 0 and 1, which sum to `total`, is below the limit.

    >>> log_evidence_below(1, num=50, limit=0.2) == log_evidence_above(49, num=50, limit=0.8)
    True
    """
    return log_evidence_above(num - total, num=num, limit=1 - limit)


def log_evidence_of_two(places: Iterable[tuple[float, float]]) -> float:
    """Return the evidence against a hypothesis on two versions.

    Args:
        places: For each place where the champion's own number could be: the evidence against the hypothesis on the
            challenger if it is there, and the evidence that it is not there. The places must cover all that is
            possible. Half of the second is staked, so that a champion of whom little is known takes little away.
    """
    return min(against + log_sum((math.log(0.5), math.log(0.5) + elsewhere)) for against, elsewhere in places)


def log_evidence_of_mean(total: float, *, total_squares: float, num: int, limit: float, reach: float) -> float:
    """Return the evidence that the mean of `num` numbers exceeds the limit, each of which is at most `reach` below it.

    log sum_i w exp(b_i S - (-ln(1 - b_i) - b_i) V), with S and V the sums of y = (x - limit) / reach and of y^2, since
    exp(b y - (-ln(1 - b) - b) y^2) <= 1 + b y for y >= -1 and 0 <= b < 1 (Fan, Grama, Liu, Electronic Journal of
    Probability 20, 2015, lemma 4.1): an e-process of "given all before, no number's mean exceeds the limit", of any
    distribution and for any number of them. What falls further below counts at least as if it fell so far. It needs
    some 3 reach / (mean - limit) numbers to speak, however equal they are: that many may lack what is as rare.

    >>> [round(log_evidence_of_mean(0.0, total_squares=0.0, num=n, limit=-0.01, reach=16.0), 1) for n in (200, 8000)]
    [0.1, 3.4]
    """
    if num == 0:
        return 0.0
    squares = max(total_squares, total * total / num)  # rounded sums
    centred = (total - num * limit) / reach
    spread = max(0.0, squares - 2 * limit * total + num * limit * limit) / reach**2
    return log_sum(bet * centred + (bet + math.log1p(-bet)) * spread for bet in MEAN_BETS) - math.log(len(MEAN_BETS))


MEAN_BETS = tuple(odds / (1 + odds) for odds in (16 / 2.5**step for step in range(8)))
"""b, 0.94 to 0.03. That of the most evidence has odds of reach (mean - limit) / mean square, both of x - limit."""


@lru_cache(maxsize=4096)
def bets(limit: float) -> tuple[tuple[float, float, float], ...]:
    """Return (log weight, log ratio of a 1, log ratio of a 0) of each mean above the limit that is bet on.

    The means have distances from the limit that shrink by a factor, on the scale asin(sqrt(t)) on which equal
    distances need equally many requests (Anscombe, Biometrika 35, 1948); the largest is 1.
    """
    start = math.asin(math.sqrt(limit))
    room = math.pi / 2 - start
    rest = (1 - _EXTREME_WEIGHT) / (_NUM_ALTERNATIVES - 1)
    found = [(math.log(_EXTREME_WEIGHT), -math.log(limit), -math.inf)]
    for step in range(1, _NUM_ALTERNATIVES):
        mean = math.sin(start + room / _SPACING**step) ** 2
        found.append((math.log(rest), math.log(mean / limit), math.log((1 - mean) / (1 - limit))))
    return tuple(found)


def log_sum(logs: Iterable[float]) -> float:
    """Return log(sum(exp(x))) without overflow."""
    found = list(logs)
    largest = max(found)
    if math.isinf(largest):
        return largest
    return largest + math.log(sum(math.exp(value - largest) for value in found))
