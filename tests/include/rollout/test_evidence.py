from __future__ import annotations

import itertools
import math

import pytest

from include.rollout.decision import Counters
from include.rollout.evidence import (
    MIN_ASYMPTOTIC,
    log_evidence_above,
    log_evidence_below,
    log_evidence_of_mean,
    log_evidence_of_two,
)
from include.rollout.measures import error_increase


@pytest.mark.parametrize("limit", [0.01, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("num", [1, 7, 40])
def test_its_expectation_is_one_at_the_limit(limit: float, num: int) -> None:
    expected = sum(
        math.comb(num, k) * limit**k * (1 - limit) ** (num - k) * math.exp(log_evidence_above(k, num=num, limit=limit))
        for k in range(num + 1)
    )
    assert expected == pytest.approx(1.0)


@pytest.mark.parametrize("values", [(0.0, 0.5), (0.1, 0.3), (0.2, 0.2), (0.0, 1.0)])
def test_fractions_and_wandering_probabilities_below_the_limit_have_less(values: tuple[float, float]) -> None:
    """Each request is one of two numbers whose mean is at most 0.2, by a probability that depends on the one before."""
    limit, num, total = 0.2, 8, 0.0
    for path in itertools.product((0, 1), repeat=num):
        prob, above = 1.0, 0.0
        for before, now in itertools.pairwise((0, *path)):
            most = 1.0 if values[1] <= limit else (limit - values[0]) / (values[1] - values[0])
            chance = most * (0.5 if before else 1.0)
            prob *= chance if now else 1 - chance
            above += values[now]
        total += prob * math.exp(log_evidence_above(above, num=num, limit=limit))
    assert total <= 1 + 1e-9


@pytest.mark.parametrize(
    ("total", "num", "limit", "expected"),
    [(0, 0, 0.1, 0.0), (5, 10, 1.0, 0.0), (0, 10, 0.0, 0.0), (1, 10, 0.0, math.inf)],
)
def test_the_ends_of_the_scale(total: float, num: int, limit: float, expected: float) -> None:
    assert log_evidence_above(total, num=num, limit=limit) == expected
    assert log_evidence_below(num - total, num=num, limit=1 - limit) == expected


def test_it_grows_with_what_speaks_for_it() -> None:
    found = [log_evidence_above(k, num=1000, limit=0.05) for k in range(50, 1001, 50)]
    assert found == sorted(found)
    assert found[0] < math.log(20) < found[2]
    assert math.isfinite(log_evidence_above(10**8, num=10**8, limit=0.5))  # no overflow


def test_the_weakest_place_counts_and_half_is_staked() -> None:
    assert log_evidence_of_two([(5.0, 0.0), (7.0, 0.0)]) == pytest.approx(5.0)
    assert log_evidence_of_two([(5.0, -math.inf)]) == pytest.approx(5.0 - math.log(2))
    assert log_evidence_of_two([(5.0, 20.0), (7.0, 0.0)]) == pytest.approx(7.0)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.3])
def test_two_versions_of_one_error_rate_have_an_expectation_of_at_most_one(rate: float) -> None:
    own, other, worse, not_worse = 6, 10, 0.0, 0.0
    for ours, theirs in itertools.product(range(own + 1), range(other + 1)):
        found = error_increase(
            challenger=Counters(requests=own, errors=ours), champion=Counters(requests=other, errors=theirs), margin=0.1
        )
        both = _binomial(theirs, other, rate)
        worse += _binomial(ours, own, rate) * both * math.exp(found.worse)
        not_worse += _binomial(ours, own, rate + 0.1) * both * math.exp(found.not_worse)
    assert worse <= 1 + 1e-9
    assert not_worse <= 1 + 1e-9


def _binomial(k: int, num: int, prob: float) -> float:
    return math.comb(num, k) * prob**k * (1 - prob) ** (num - k)


@pytest.mark.parametrize(
    ("num", "mean", "deviation", "sign"),
    [
        (MIN_ASYMPTOTIC - 1, 1.0, 0.1, 0),  # too few
        (MIN_ASYMPTOTIC, 1.0, 0.1, 1),
        (10_000, 0.0, 0.1, 0),
        (10_000, -1.0, 0.1, 0),
        (10_000, 1e-6, 1.0, -1),
        (1000, 1.0, 0.0, math.inf),
    ],
)
def test_evidence_of_a_mean(num: int, mean: float, deviation: float, sign: float) -> None:
    found = log_evidence_of_mean(num=num, mean=mean, deviation=deviation, limit=0.0)
    assert (found > 0) - (found < 0) == (sign if math.isfinite(sign) else 1)
    assert math.isinf(found) is math.isinf(sign)


def test_means_of_no_difference_seldom_look_like_one() -> None:
    """Looked at after every tenth of 5,000 skewed numbers, 400 times: a one in twenty at most."""
    numpy = pytest.importorskip("numpy")
    rng = numpy.random.default_rng(5)
    differences = rng.exponential(1.0, size=(400, 5000)) - 1.0
    num = numpy.arange(MIN_ASYMPTOTIC, 5000, 10)
    totals, squares = (numpy.cumsum(differences**power, axis=1)[:, num - 1] for power in (1, 2))
    means = totals / num
    deviations = numpy.sqrt(squares / num - means**2)
    found = 0
    for run in range(400):
        found += any(
            log_evidence_of_mean(num=int(n), mean=float(m), deviation=float(d), limit=0.0) >= math.log(20)
            for n, m, d in zip(num, means[run], deviations[run], strict=True)
        )
    assert found <= 400 * 0.05
