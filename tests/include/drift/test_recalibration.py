from __future__ import annotations

import numpy as np
import pytest

from include.drift.recalibration import Gain, forward_gain
from include.errors import InconclusiveError
from include.tasks.binary import BinaryClassification
from include.tasks.regression import Regression


def gain_of(*, label_N: np.ndarray, probability_N: np.ndarray, day_N: np.ndarray) -> Gain:
    return forward_gain(task=BinaryClassification(), label_N=label_N, predicted_NK=probability_N, day_N=day_N)


def scores(*, num_rows: int, slope: float = 1.0, intercept: float = 0.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return outcomes and the scores of a model whose calibrated form is sigmoid(slope * logit + intercept)."""
    rng = np.random.default_rng(seed)
    logit_N = rng.normal(-1, 1, size=num_rows)
    label_N = (rng.random(num_rows) < 1 / (1 + np.exp(-(slope * logit_N + intercept)))).astype(float)
    return label_N, 1 / (1 + np.exp(-logit_N))


def test_gain_of_scores_that_are_too_low_is_found_and_sure() -> None:
    label_N, probability_N = scores(num_rows=4000, intercept=0.8)
    gain = gain_of(label_N=label_N, probability_N=probability_N, day_N=np.arange(4000) // 133)
    assert gain.mean == pytest.approx(0.06, abs=0.02)
    assert gain.mean > 3 * gain.standard_error
    assert gain.parameters["intercept"] == pytest.approx(0.8, abs=0.15)
    assert gain.num_rows == pytest.approx(2000, abs=70)


def test_calibrated_scores_have_nothing_to_win() -> None:
    found = []
    for seed in range(20):
        label_N, probability_N = scores(num_rows=2000, seed=seed)
        gain = gain_of(label_N=label_N, probability_N=probability_N, day_N=np.arange(2000) // 67)
        found.append(gain.mean > max(0.002, 1.645 * gain.standard_error))
    assert sum(found) <= 2


def test_a_month_whose_second_half_differs_shows_a_loss() -> None:
    label_N, probability_N = scores(num_rows=4000, intercept=0.8)
    later_N, _ = scores(num_rows=4000, intercept=-0.5)
    label_N[2000:] = later_N[2000:]
    gain = gain_of(label_N=label_N, probability_N=probability_N, day_N=np.arange(4000) // 133)
    assert gain.mean < -0.05


def test_order_of_rows_does_not_matter() -> None:
    label_N, probability_N = scores(num_rows=1000, intercept=0.5)
    day_N = np.arange(1000) // 40
    mixed = np.random.default_rng(1).permutation(1000)
    once = gain_of(label_N=label_N, probability_N=probability_N, day_N=day_N)
    again = gain_of(label_N=label_N[mixed], probability_N=probability_N[mixed], day_N=day_N[mixed])
    assert again.mean == pytest.approx(once.mean)
    assert again.standard_error == pytest.approx(once.standard_error)


def test_rows_that_share_their_day_make_the_error_larger() -> None:
    label_N, probability_N = scores(num_rows=3000, intercept=0.5)
    won = gain_of(label_N=label_N, probability_N=probability_N, day_N=np.arange(3000) // 100)
    copies = gain_of(
        label_N=np.repeat(label_N, 4), probability_N=np.repeat(probability_N, 4), day_N=np.repeat(np.arange(3000), 4)
    )
    single = gain_of(label_N=label_N, probability_N=probability_N, day_N=np.arange(3000))
    assert copies.standard_error == pytest.approx(single.standard_error, rel=0.02)
    assert won.standard_error > 0


@pytest.mark.parametrize("num_days", [0, 1, 8])
def test_too_few_days_are_inconclusive(num_days: int) -> None:
    label_N, probability_N = scores(num_rows=num_days * 10)
    with pytest.raises(InconclusiveError, match=f"at least 5 days in each half .* got {num_days} days"):
        gain_of(label_N=label_N, probability_N=probability_N, day_N=np.arange(num_days * 10) // 10)


def test_enough_days_are_conclusive() -> None:
    label_N, probability_N = scores(num_rows=100)
    assert gain_of(label_N=label_N, probability_N=probability_N, day_N=np.arange(100) // 10).num_rows == 50


def test_one_kind_of_outcome_is_inconclusive() -> None:
    with pytest.raises(InconclusiveError, match="two different labels"):
        gain_of(label_N=np.zeros(100), probability_N=np.full(100, 0.2), day_N=np.arange(100) // 5)


def test_a_regression_that_became_too_low_shows_a_gain_in_its_own_unit() -> None:
    rng = np.random.default_rng(1)
    prediction_N = rng.normal(60, 10, size=3000)
    label_N = prediction_N + 5 + rng.normal(size=3000)
    task = Regression(loss="squared_error", huber_delta=0.0)
    day_N = np.arange(3000) // 100
    gain = forward_gain(task=task, label_N=label_N, predicted_NK=prediction_N, day_N=day_N)
    assert gain.mean == pytest.approx(25, rel=0.05)
    assert gain.mean > 1.645 * gain.standard_error
    assert gain.parameters["intercept"] + 60 * gain.parameters["slope"] == pytest.approx(65, abs=0.2)
    label_N[1500:] -= 10
    assert forward_gain(task=task, label_N=label_N, predicted_NK=prediction_N, day_N=day_N).mean < 0
