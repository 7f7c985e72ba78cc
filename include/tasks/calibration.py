"""Maps of predictions that need two numbers, or one and one a class: what a model's loss owes to scale and level alone.

Shape suffixes: N rows, K classes, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from include.spec import LossName

_SMALLEST = 1e-7
_MAX_STEPS = 50
_SMALLEST_ERROR_FRAC = 1e-2
"""Of the mean error: an error below it weighs no more, else one row that fits exactly would outweigh all others."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted map.

    Args:
        parameters: By name, for people and the ledger.
        apply: Predictions -> predictions.
    """

    parameters: Mapping[str, float]
    apply: Callable[[np.ndarray], np.ndarray]


def logit_calibration(*, slope: float, intercept: float) -> Calibration:
    """Return p' = sigmoid(slope * logit(p) + intercept); a slope below 1: the scores were too bold."""
    return Calibration(
        parameters={"slope": slope, "intercept": intercept},
        apply=lambda probability_N: _sigmoid(slope * _logit(probability_N) + intercept),
    )


def class_calibration(*, slope: float, bias_K: np.ndarray, classes: tuple[str, ...]) -> Calibration:
    """Return p'_k = softmax(slope * ln p_k + bias_k)."""
    biases = {f"bias {name}": float(bias) for name, bias in zip(classes, bias_K, strict=True)}
    return Calibration(
        parameters={"slope": slope, **biases},
        apply=lambda probability_NK: _softmax(slope * _log(probability_NK) + bias_K),
    )


def number_calibration(*, slope: float, intercept: float) -> Calibration:
    """Return y' = slope * y + intercept."""
    return Calibration(
        parameters={"slope": slope, "intercept": intercept},
        apply=lambda prediction_N: slope * prediction_N + intercept,
    )


def fit_logit_affine(*, label_N: np.ndarray, probability_N: np.ndarray) -> tuple[float, float]:
    """Return the slope and intercept that recalibrate scores best in log loss.

    p' = sigmoid(a * logit(p) + b), (a, b) by Newton steps on the mean log loss plus a penalty of
    ((a - 1)^2 + b^2) / 2N, worth one row, so that separable outcomes stay finite.
    Source: Cox (1958), Biometrika 45(3/4), "Two further applications of a model for binary regression"; as a map of
    scores: Platt (1999), eq. 1.

    Args:
        label_N: Outcomes, 0 or 1, shape (N,).
        probability_N: Scores in 0 to 1, shape (N,).

    >>> import numpy as np
    >>> label_N = np.array([0.0, 0, 0, 1] * 500)
    >>> a, b = fit_logit_affine(label_N=label_N, probability_N=np.full(2000, 0.25))
    >>> round(a, 2), round(b, 2)
    (1.0, 0.0)
    """
    import numpy as np

    design_NP = np.stack([_logit(probability_N), np.ones(len(probability_N))], axis=1)

    def loss(fitted_P: np.ndarray) -> float:
        logit_N = design_NP @ fitted_P
        return float((np.logaddexp(0, logit_N) - label_N * logit_N).sum())

    def slopes(fitted_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probability = _sigmoid(design_NP @ fitted_P)
        curvature_N = probability * (1 - probability)
        return design_NP.T @ (probability - label_N), (design_NP * curvature_N[:, None]).T @ design_NP

    slope, intercept = _newton(loss, slopes, start_P=np.array([1.0, 0.0]))
    return float(slope), float(intercept)


def fit_class_calibration(*, label_N: np.ndarray, probability_NK: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the slope (one over the temperature) and the class biases that recalibrate probabilities best in log loss.

    p'_k = softmax(a * ln p_k + b_k), by Newton steps on the log loss plus ((a - 1)^2 + |b|^2) / 2, worth one row: it
    keeps separable outcomes finite and chooses among the b that differ by a constant, which are one map.
    Source: Guo, Pleiss, Sun and Weinberger (2017), ICML, for the temperature; Alexandari, Kundaje and Shrikumar (2020),
    ICML, section 3, for the biases.

    Args:
        label_N: Classes by position, shape (N,).
        probability_NK: Probabilities, shape (N, K).
    """
    import numpy as np

    log_NK = _log(probability_NK)
    num_classes = log_NK.shape[1]
    outcome_NK = np.eye(num_classes)[label_N.astype(np.int64)]

    def loss(fitted_P: np.ndarray) -> float:
        logit_NK = fitted_P[0] * log_NK + fitted_P[1:]
        return float((_log_sum_exp(logit_NK) - (outcome_NK * logit_NK).sum(axis=1)).sum())

    def slopes(fitted_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found_NK = _softmax(fitted_P[0] * log_NK + fitted_P[1:])
        error_NK = found_NK - outcome_NK
        centred_NK = log_NK - (found_NK * log_NK).sum(axis=1, keepdims=True)
        hessian_PP = np.empty((num_classes + 1, num_classes + 1))
        hessian_PP[0, 0] = (found_NK * centred_NK**2).sum()
        hessian_PP[0, 1:] = hessian_PP[1:, 0] = (found_NK * centred_NK).sum(axis=0)
        hessian_PP[1:, 1:] = np.diag(found_NK.sum(axis=0)) - found_NK.T @ found_NK
        return np.concatenate([[(error_NK * log_NK).sum()], error_NK.sum(axis=0)]), hessian_PP

    fitted_P = _newton(loss, slopes, start_P=np.eye(num_classes + 1)[0])
    return float(fitted_P[0]), fitted_P[1:]


def fit_affine(
    *, label_N: np.ndarray, prediction_N: np.ndarray, loss: LossName, huber_delta: float
) -> tuple[float, float]:
    """Return the slope and intercept of the straight line from predictions to labels that has the least loss.

    With u the standardised predictions, c + d u is fitted to label - prediction by (weighted) least squares plus
    c^2 + d^2, worth one row; the weights of absolute and Huber losses by iteration: 1 / |e| and min(1, delta / |e|).
    Source: Mincer and Zarnowitz (1969), "The Evaluation of Economic Forecasts", equation 1, for the line; Holland and
    Welsch (1977), Commun. Stat. A6(9), for the weights.

    Args:
        label_N: Numbers, shape (N,).
        prediction_N: What was predicted of them, shape (N,).
        loss: squared_error, absolute_error or huber.
        huber_delta: Error beyond which `huber` counts linearly.

    >>> import numpy as np
    >>> prediction_N = np.arange(1000.0)
    >>> a, b = fit_affine(label_N=2 * prediction_N + 5, prediction_N=prediction_N, loss="squared_error", huber_delta=0)
    >>> round(a, 2), round(b, 0)
    (2.0, 5.0)
    """
    import numpy as np

    mean, spread = float(prediction_N.mean()), float(prediction_N.std()) or 1.0
    design_NP = np.stack([np.ones(len(prediction_N)), (prediction_N - mean) / spread], axis=1)
    error_N = label_N - prediction_N
    least = _SMALLEST_ERROR_FRAC * (float(np.abs(error_N).mean()) or 1.0)
    fitted_P, weight_N = np.zeros(2), np.ones(len(error_N))
    for _ in range(_MAX_STEPS):
        weighted_PN = (design_NP * weight_N[:, None]).T
        found_P = np.linalg.solve(weighted_PN @ design_NP + np.eye(2), weighted_PN @ error_N)
        change, fitted_P = float(np.abs(found_P - fitted_P).max()), found_P
        if loss == "squared_error" or change <= _SMALLEST * least:
            break
        size_N = np.maximum(np.abs(error_N - design_NP @ fitted_P), least)
        weight_N = np.minimum(1.0, huber_delta / size_N) if loss == "huber" else 1.0 / size_N
        weight_N = weight_N / weight_N.mean()
    slope = 1 + float(fitted_P[1]) / spread
    return slope, float(fitted_P[0]) + mean * (1 - slope)


def _newton(
    loss: Callable[[np.ndarray], float],
    slopes: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    *,
    start_P: np.ndarray,
) -> np.ndarray:
    """Return the parameters of least loss plus half their squared distance from the start, by damped Newton steps."""
    import numpy as np

    def penalised(fitted_P: np.ndarray) -> float:
        return loss(fitted_P) + float((fitted_P - start_P) @ (fitted_P - start_P)) / 2

    fitted_P, least = start_P, penalised(start_P)
    for _ in range(_MAX_STEPS):
        gradient_P, hessian_PP = slopes(fitted_P)
        step_P = np.linalg.solve(hessian_PP + np.eye(len(start_P)), gradient_P + (fitted_P - start_P))
        scale, tried_P = 1.0, fitted_P - step_P
        while (tried := penalised(tried_P)) > least:
            scale /= 2
            if scale < _SMALLEST:
                return fitted_P
            tried_P = fitted_P - scale * step_P
        fitted_P, least = tried_P, tried
        if np.abs(scale * step_P).max() < _SMALLEST:
            break
    return fitted_P


def _logit(probability_N: np.ndarray) -> np.ndarray:
    import numpy as np

    clipped_N = np.clip(np.asarray(probability_N, dtype=np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.log(clipped_N) - np.log1p(-clipped_N)


def _sigmoid(logit_N: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.exp(-np.logaddexp(0, -logit_N))


def _log(probability_NK: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.log(np.clip(np.asarray(probability_NK, dtype=np.float64), _SMALLEST, 1))


def _log_sum_exp(logit_NK: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.asarray(np.logaddexp.reduce(logit_NK, axis=1))


def _softmax(logit_NK: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.asarray(np.exp(logit_NK - _log_sum_exp(logit_NK)[:, None]))
