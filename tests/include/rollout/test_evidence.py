from __future__ import annotations

import itertools
import math

import pytest

from include.rollout.decision import Counters, LabelEvidence
from include.rollout.evidence import (
    log_evidence_above,
    log_evidence_below,
    log_evidence_of_mean,
    log_evidence_of_two,
)
from include.rollout.measures import error_increase, loss


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


@pytest.mark.parametrize("prob", [0.001, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("limit", [-0.01, 0.0, 0.5])
@pytest.mark.parametrize("num", [1, 30, 400])
def test_a_mean_at_the_limit_has_an_expectation_of_at_most_one(prob: float, limit: float, num: int) -> None:
    """Of numbers of two values, one of them as far below the limit as may be, as rarely as `prob`."""
    reach = 2.0
    low, high = limit - reach, limit + reach * prob / (1 - prob)
    expected = 0.0
    for k in range(num + 1):
        total, squares = k * low + (num - k) * high, k * low**2 + (num - k) * high**2
        found = log_evidence_of_mean(total, total_squares=squares, num=num, limit=limit, reach=reach)
        expected += _binomial(k, num, prob) * math.exp(found)
    assert expected <= 1 + 1e-9


@pytest.mark.parametrize(
    ("num", "mean", "deviation", "sign"),
    [(0, 0.0, 0.0, 0), (199, 1.0, 0.1, 1), (10_000, 0.0, 0.1, -1), (10_000, -1.0, 0.1, -1), (10_000, 1e-6, 1.0, -1)],
)
def test_evidence_of_a_mean(num: int, mean: float, deviation: float, sign: float) -> None:
    squares = (mean**2 + deviation**2) * num
    found = log_evidence_of_mean(mean * num, total_squares=squares, num=num, limit=0.0, reach=10.0)
    assert (found > 0) - (found < 0) == sign


def test_what_lies_beyond_reach_counts_for_no_more_than_at_its_end() -> None:
    def evidence(lowest: float) -> float:
        return log_evidence_of_mean(100 + lowest, total_squares=100 + lowest**2, num=101, limit=0.0, reach=2.0)

    assert evidence(-20.0) < evidence(-2.5) < evidence(-2.0)


def test_sums_that_were_rounded_are_no_more_evidence_than_equal_numbers() -> None:
    equal, less = (
        log_evidence_of_mean(50.0, total_squares=squares, num=100, limit=0.0, reach=5.0) for squares in (25.0, 24.0)
    )
    assert equal == less


@pytest.mark.parametrize("num", [200, 4000])
def test_equal_losses_are_no_verdict_on_rare_ones(num: int) -> None:
    """A hundredth of the rows may lose two nats, and none of 200 does in one of eight."""
    found = loss(labels=LabelEvidence(num=num), margin=0.01, is_needed=True)
    assert 0 < found.not_worse < math.log(20)


@pytest.mark.parametrize(
    ("frac", "lost"),
    [(1.0, None), (0.005, 2.0), (0.001, 10.0), (0.01 / 16, 16.0)],
    ids=["normal", "a row in 200 loses 2 nats", "one in 1,000 loses 10", "one in 1,600 loses 16"],
)
def test_a_loss_at_the_margin_seldom_passes_however_rare_it_is(frac: float, lost: float | None) -> None:
    """Looked at after every hundredth of 20,000 labels, 300 times: one in twenty at most."""
    numpy = pytest.importorskip("numpy")
    rng, margin = numpy.random.default_rng(2), 0.01
    num = numpy.arange(100, 20_001, 100)
    passed = 0
    for _ in range(300):
        differences = rng.normal(margin, 0.2, 20_000) if lost is None else (rng.random(20_000) < frac) * lost
        totals, squares = (numpy.cumsum(differences**power)[num - 1] for power in (1, 2))
        passed += any(
            loss(labels=labels, margin=margin, is_needed=True).not_worse >= math.log(20)
            for labels in (
                LabelEvidence(num=int(n), total=float(t), total_squares=float(q))
                for n, t, q in zip(num, totals, squares, strict=True)
            )
        )
    assert passed <= 300 * 0.05


def test_losses_of_no_difference_seldom_fail() -> None:
    """Looked at after every fiftieth of 10,000 skewed numbers, 300 times: one in twenty at most."""
    numpy = pytest.importorskip("numpy")
    rng, num = numpy.random.default_rng(5), numpy.arange(50, 10_001, 50)
    failed = 0
    for _ in range(300):
        differences = rng.exponential(0.3, 10_000) - 0.3
        totals, squares = (numpy.cumsum(differences**power)[num - 1] for power in (1, 2))
        failed += any(
            log_evidence_of_mean(float(t), total_squares=float(q), num=int(n), limit=0.0, reach=16.0) >= math.log(20)
            for n, t, q in zip(num, totals, squares, strict=True)
        )
    assert failed <= 300 * 0.05
