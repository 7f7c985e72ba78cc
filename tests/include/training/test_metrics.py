from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from include.errors import InconclusiveError
from include.training.metrics import auc, expected_calibration_error, log_losses


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    probability_B = np.round(rng.uniform(size=500), 2)  # rounded, so that there are ties
    return (rng.uniform(size=500) < probability_B).astype(int), probability_B


def test_log_loss_and_auc_equal_scikit_learn(rows: tuple[np.ndarray, np.ndarray]) -> None:
    label_B, probability_B = rows
    clipped_B = np.clip(probability_B, 1e-7, 1 - 1e-7)
    assert log_losses(label_B=label_B, probability_B=probability_B).mean() == pytest.approx(
        reference.log_loss(label_B, clipped_B)
    )
    assert auc(label_B=label_B, probability_B=probability_B) == pytest.approx(
        reference.roc_auc_score(label_B, probability_B)
    )


def test_auc_of_one_class_is_not_a_number_but_none() -> None:
    assert auc(label_B=[1, 1], probability_B=[0.1, 0.9]) is None


def test_calibration_error_is_the_closed_form_for_one_bin() -> None:
    label_B, probability_B = [1, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]
    error = expected_calibration_error(label_B=label_B, probability_B=probability_B, num_bins=1)
    assert error == pytest.approx(abs(np.mean(label_B) - np.mean(probability_B)))


def test_probability_one_falls_into_the_last_bin() -> None:
    assert expected_calibration_error(label_B=[1], probability_B=[1.0]) == 0


@pytest.mark.parametrize(
    ("label_B", "probability_B"), [([], []), ([1, 0], [0.5]), ([1], [float("nan")]), ([1], [1.5]), ([1], [-0.1])]
)
@pytest.mark.parametrize("metric", [log_losses, auc, expected_calibration_error])
def test_what_cannot_be_measured_is_inconclusive(
    metric: object, label_B: list[int], probability_B: list[float]
) -> None:
    with pytest.raises(InconclusiveError, match="Nothing was measured"):
        metric(label_B=label_B, probability_B=probability_B)  # type: ignore[operator]
