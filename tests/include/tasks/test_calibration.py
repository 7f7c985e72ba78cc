"""Maps of predictions by two numbers, or one and one a class, against other libraries' fits of the same."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import HuberRegressor, LinearRegression, LogisticRegression, QuantileRegressor

from include.tasks.calibration import fit_affine, fit_class_calibration, fit_logit_affine
from include.tasks.multiclass import MulticlassClassification
from include.tasks.regression import Regression


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


def of_classes(num_rows: int, *, slope: float, bias_K: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and the probabilities of a model whose calibrated form is softmax(slope * log p + bias)."""
    rng = np.random.default_rng(2)
    raw_NK = rng.normal(size=(num_rows, 3))
    log_NK = raw_NK - np.logaddexp.reduce(raw_NK, axis=1, keepdims=True)
    true_NK = np.exp(slope * log_NK + np.array(bias_K))
    true_NK /= true_NK.sum(axis=1, keepdims=True)
    drawn_N = rng.random(num_rows)
    return (true_NK.cumsum(axis=1) < drawn_N[:, None]).sum(axis=1), np.exp(log_NK)


def test_temperature_and_class_biases_are_the_minimum_that_scipy_finds() -> None:
    label_N, probability_NK = of_classes(400, slope=0.6, bias_K=(0.5, 0.0, -0.5))
    log_NK = np.log(probability_NK)

    def objective(theta: np.ndarray) -> float:
        logit_NK = theta[0] * log_NK + theta[1:]
        own_N = logit_NK[np.arange(400), label_N]
        penalty = ((theta[0] - 1) ** 2 + theta[1:] @ theta[1:]) / 2
        return float(np.sum(np.logaddexp.reduce(logit_NK, axis=1) - own_N) + penalty)

    theirs = optimize.minimize(objective, x0=[1.0, 0.0, 0.0, 0.0], tol=1e-12).x
    slope, bias_K = fit_class_calibration(label_N=label_N, probability_NK=probability_NK)
    assert [slope, *bias_K] == pytest.approx(list(theirs), abs=1e-4)


def test_temperature_and_class_biases_are_found_again() -> None:
    label_N, probability_NK = of_classes(20_000, slope=0.6, bias_K=(0.5, 0.0, -0.5))
    task = MulticlassClassification(classes=("a", "b", "c"))
    fitted = task.calibrate(label_N, probability_NK)
    assert fitted.parameters["slope"] == pytest.approx(0.6, abs=0.03)
    assert fitted.parameters["bias a"] - fitted.parameters["bias c"] == pytest.approx(1.0, abs=0.06)
    mended_NK = fitted.apply(probability_NK)
    assert task.losses(label_N, mended_NK).mean() < task.losses(label_N, probability_NK).mean() - 0.02
    assert task.prediction_problem(mended_NK, num_rows=20_000) is None


def test_classes_that_are_separated_or_absent_stay_finite() -> None:
    label_N = np.array([0, 1] * 50)
    slope, bias_K = fit_class_calibration(label_N=label_N, probability_NK=np.eye(3)[label_N])
    assert np.isfinite([slope, *bias_K]).all()


def forecasts(num_rows: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Return labels with heavy tails, and predictions that are too low and too bold."""
    rng = np.random.default_rng(9)
    prediction_N = rng.normal(50, 10, size=num_rows)
    return 10 + 0.9 * prediction_N + rng.standard_t(2, size=num_rows), prediction_N


@pytest.mark.parametrize(
    ("loss", "theirs"),
    [
        ("squared_error", LinearRegression()),
        ("absolute_error", QuantileRegressor(quantile=0.5, alpha=0, solver="highs")),
        ("huber", HuberRegressor(epsilon=1.0, alpha=0, tol=1e-8, max_iter=1000)),
    ],
)
def test_a_line_is_that_of_least_loss(loss: str, theirs: LinearRegression) -> None:
    label_N, prediction_N = forecasts()
    theirs.fit(prediction_N[:, None], label_N)
    # HuberRegressor fits a scale too, in whose units its epsilon is.
    delta = float(getattr(theirs, "scale_", 1.0))
    slope, intercept = fit_affine(label_N=label_N, prediction_N=prediction_N, loss=loss, huber_delta=delta)  # type: ignore[arg-type]
    assert slope == pytest.approx(theirs.coef_[0], abs=2e-3)
    assert intercept + 50 * slope == pytest.approx(theirs.intercept_ + 50 * theirs.coef_[0], abs=0.02)
    task = Regression(loss=loss, huber_delta=delta)  # type: ignore[arg-type]
    ours = task.losses(label_N, slope * prediction_N + intercept).mean()
    assert ours < task.losses(label_N, prediction_N).mean()


def test_a_line_is_the_same_in_any_unit() -> None:
    label_N, prediction_N = forecasts(300)
    slope, intercept = fit_affine(label_N=label_N, prediction_N=prediction_N, loss="squared_error", huber_delta=0)
    again = fit_affine(label_N=label_N * 1e6, prediction_N=prediction_N * 1e6, loss="squared_error", huber_delta=0)
    assert again == pytest.approx((slope, intercept * 1e6))


def test_predictions_that_are_all_alike_are_moved_only() -> None:
    found = fit_affine(label_N=np.arange(100.0), prediction_N=np.full(100, 7.0), loss="squared_error", huber_delta=0)
    assert found[0] == pytest.approx(1)
    assert found[0] * 7 + found[1] == pytest.approx(49.5, abs=0.5)
