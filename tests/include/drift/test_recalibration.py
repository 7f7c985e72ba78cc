from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import LogisticRegression

from include.drift.recalibration import fit_logit_affine, forward_gain
from include.errors import InconclusiveError


def scores(*, num_rows: int, slope: float = 1.0, intercept: float = 0.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return outcomes and the scores of a model whose calibrated form is sigmoid(slope * logit + intercept)."""
    rng = np.random.default_rng(seed)
    logit_N = rng.normal(-1, 1, size=num_rows)
    label_N = (rng.random(num_rows) < 1 / (1 + np.exp(-(slope * logit_N + intercept)))).astype(float)
    return label_N, 1 / (1 + np.exp(-logit_N))


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.7, 0.4), (1.3, -0.8)])
def test_fit_equals_an_unpenalised_logistic_regression_on_the_logit(slope: float, intercept: float) -> None:
    label_N, probability_N = scores(num_rows=4000, slope=slope, intercept=intercept)
    logit_N = np.log(probability_N / (1 - probability_N))
    theirs = LogisticRegression(C=np.inf, tol=1e-8).fit(logit_N[:, None], label_N)
    found = fit_logit_affine(label_N=label_N, probability_N=probability_N)
    # The penalty is worth one row of 4000.
    assert found == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=2e-3)


def test_fit_is_the_minimum_that_scipy_finds() -> None:
    label_N, probability_N = scores(num_rows=300, slope=0.5, intercept=1.0)
    logit_N = np.log(probability_N / (1 - probability_N))

    def objective(theta: np.ndarray) -> float:
        score_N = theta[0] * logit_N + theta[1]
        penalty = ((theta[0] - 1) ** 2 + theta[1] ** 2) / 2
        return float(np.sum(np.logaddexp(0, score_N) - label_N * score_N) + penalty)

    theirs = optimize.minimize(objective, x0=[1.0, 0.0], tol=1e-12).x
    assert fit_logit_affine(label_N=label_N, probability_N=probability_N) == pytest.approx(tuple(theirs), abs=1e-5)


def test_fit_stays_finite_when_scores_separate_outcomes_or_are_0_and_1() -> None:
    label_N = np.array([0.0] * 50 + [1.0] * 50)
    slope, intercept = fit_logit_affine(label_N=label_N, probability_N=np.where(label_N > 0, 0.9, 0.1))
    assert 1 < slope < 10
    assert abs(intercept) < 1e-6
    slope, intercept = fit_logit_affine(label_N=label_N[::-1].copy(), probability_N=label_N)
    assert np.isfinite([slope, intercept]).all()


def test_gain_of_scores_that_are_too_low_is_found_and_sure() -> None:
    label_N, probability_N = scores(num_rows=4000, intercept=0.8)
    gain = forward_gain(label_N=label_N, probability_N=probability_N, day_N=np.arange(4000) // 133)
    assert gain.nats == pytest.approx(0.06, abs=0.02)
    assert gain.nats > 3 * gain.standard_error_nats
    assert gain.intercept == pytest.approx(0.8, abs=0.15)
    assert gain.num_rows == pytest.approx(2000, abs=70)


def test_calibrated_scores_have_nothing_to_win() -> None:
    found = []
    for seed in range(20):
        label_N, probability_N = scores(num_rows=2000, seed=seed)
        gain = forward_gain(label_N=label_N, probability_N=probability_N, day_N=np.arange(2000) // 67)
        found.append(gain.nats > max(0.002, 1.645 * gain.standard_error_nats))
    assert sum(found) <= 2


def test_a_month_whose_second_half_differs_shows_a_loss() -> None:
    label_N, probability_N = scores(num_rows=4000, intercept=0.8)
    later_N, _ = scores(num_rows=4000, intercept=-0.5)
    label_N[2000:] = later_N[2000:]
    gain = forward_gain(label_N=label_N, probability_N=probability_N, day_N=np.arange(4000) // 133)
    assert gain.nats < -0.05


def test_order_of_rows_does_not_matter() -> None:
    label_N, probability_N = scores(num_rows=1000, intercept=0.5)
    day_N = np.arange(1000) // 40
    mixed = np.random.default_rng(1).permutation(1000)
    once = forward_gain(label_N=label_N, probability_N=probability_N, day_N=day_N)
    again = forward_gain(label_N=label_N[mixed], probability_N=probability_N[mixed], day_N=day_N[mixed])
    assert again.nats == pytest.approx(once.nats)
    assert again.standard_error_nats == pytest.approx(once.standard_error_nats)


def test_rows_that_share_their_day_make_the_error_larger() -> None:
    label_N, probability_N = scores(num_rows=3000, intercept=0.5)
    won = forward_gain(label_N=label_N, probability_N=probability_N, day_N=np.arange(3000) // 100)
    copies = forward_gain(
        label_N=np.repeat(label_N, 4), probability_N=np.repeat(probability_N, 4), day_N=np.repeat(np.arange(3000), 4)
    )
    single = forward_gain(label_N=label_N, probability_N=probability_N, day_N=np.arange(3000))
    assert copies.standard_error_nats == pytest.approx(single.standard_error_nats, rel=0.02)
    assert won.standard_error_nats > 0


@pytest.mark.parametrize("num_days", [0, 1, 8])
def test_too_few_days_are_inconclusive(num_days: int) -> None:
    label_N, probability_N = scores(num_rows=num_days * 10)
    with pytest.raises(InconclusiveError, match=f"at least 5 days in each half .* got {num_days} days"):
        forward_gain(label_N=label_N, probability_N=probability_N, day_N=np.arange(num_days * 10) // 10)


def test_enough_days_are_conclusive() -> None:
    label_N, probability_N = scores(num_rows=100)
    assert forward_gain(label_N=label_N, probability_N=probability_N, day_N=np.arange(100) // 10).num_rows == 50


def test_one_kind_of_outcome_is_inconclusive() -> None:
    with pytest.raises(InconclusiveError, match="both outcomes"):
        forward_gain(label_N=np.zeros(100), probability_N=np.full(100, 0.2), day_N=np.arange(100) // 5)
