"""How much of a model's loss is worth a training: what its own scores would win by a mere recalibration.

Shape suffixes: N rows, P the two parameters (slope, intercept), G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import InconclusiveError

if TYPE_CHECKING:
    import numpy as np

_SMALLEST = 1e-7
_MAX_STEPS = 50
MIN_GROUPS = 5
"""Days in the later half below which the spread between days says nothing."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Log loss that recalibrated scores would have won.

    Args:
        nats: Mean gain a row over the later half; negative: recalibration would have lost.
        standard_error_nats: Of the mean, from the spread between days.
        slope: Fitted on the earlier half; below 1 the scores were too bold.
        intercept: Fitted on the earlier half; above 0 they were too low.
        num_rows: Rows of the later half.
    """

    nats: float
    standard_error_nats: float
    slope: float
    intercept: float
    num_rows: int


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
    identity_P = np.array([1.0, 0.0])
    fitted_P, loss = identity_P, _penalised(design_NP @ identity_P, label_N, 0.0)
    for _ in range(_MAX_STEPS):
        probability = _sigmoid(design_NP @ fitted_P)
        gradient_P = design_NP.T @ (probability - label_N) + (fitted_P - identity_P)
        curvature_N = probability * (1 - probability)
        hessian_PP = (design_NP * curvature_N[:, None]).T @ design_NP + np.eye(2)
        step_P = np.linalg.solve(hessian_PP, gradient_P)
        scale, tried_P = 1.0, fitted_P - step_P
        while (tried := _penalised(design_NP @ tried_P, label_N, _squared(tried_P - identity_P))) > loss:
            scale /= 2
            if scale < _SMALLEST:
                return float(fitted_P[0]), float(fitted_P[1])
            tried_P = fitted_P - scale * step_P
        fitted_P, loss = tried_P, tried
        if np.abs(scale * step_P).max() < _SMALLEST:
            break
    return float(fitted_P[0]), float(fitted_P[1])


def forward_gain(*, label_N: np.ndarray, probability_N: np.ndarray, day_N: np.ndarray) -> Gain:
    """Return what a recalibration on the earlier half of the days would have won on the later half.

    Forward in time, as a new version would be used: a month whose second half differs from its first shows a loss
    here, where random halves would show a gain. Rows of one day share their weather, so the error of the mean is the
    cluster-robust one: se^2 = G / (G - 1) * sum_g (sum_{i in g} (d_i - d))^2 / N^2.
    Source: Liang and Zeger (1986), Biometrika 73(1), for the clustered variance.

    Args:
        label_N: Outcomes, 0 or 1, shape (N,).
        probability_N: Scores in 0 to 1, shape (N,).
        day_N: Integer day of each row, shape (N,); any order.

    Raises:
        InconclusiveError: Fewer than 5 days in the later half, or no outcomes of both kinds in the earlier.
    """
    import numpy as np

    days_G = np.unique(day_N)
    middle = days_G[len(days_G) // 2] if len(days_G) else 0
    earlier_N = day_N < middle
    num_later_days = int((days_G >= middle).sum())
    if num_later_days < MIN_GROUPS or len(np.unique(label_N[earlier_N])) < 2:  # noqa: PLR2004 - both outcomes
        raise InconclusiveError(
            f"expected gain needs at least {MIN_GROUPS} days in each half and both outcomes in the earlier; got "
            f"{len(days_G)} days, {int(earlier_N.sum())} earlier rows. Nothing was measured. Gather more days."
        )
    slope, intercept = fit_logit_affine(label_N=label_N[earlier_N], probability_N=probability_N[earlier_N])
    label_N, logit_N, day_N = label_N[~earlier_N], _logit(probability_N[~earlier_N]), day_N[~earlier_N]
    won_N = _losses(logit_N, label_N) - _losses(slope * logit_N + intercept, label_N)
    mean = float(won_N.mean())
    _, group_N = np.unique(day_N, return_inverse=True)
    deviation_G = np.bincount(group_N, weights=won_N - mean)
    variance = len(deviation_G) / (len(deviation_G) - 1) * float(np.sum(deviation_G**2)) / len(won_N) ** 2
    return Gain(nats=mean, standard_error_nats=variance**0.5, slope=slope, intercept=intercept, num_rows=len(won_N))


def _logit(probability_N: np.ndarray) -> np.ndarray:
    import numpy as np

    clipped_N = np.clip(np.asarray(probability_N, dtype=np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.log(clipped_N) - np.log1p(-clipped_N)


def _sigmoid(logit_N: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.exp(-np.logaddexp(0, -logit_N))


def _losses(logit_N: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.logaddexp(0, logit_N) - label_N * logit_N


def _squared(value_P: np.ndarray) -> float:
    return float(value_P @ value_P)


def _penalised(logit_N: np.ndarray, label_N: np.ndarray, squared: float) -> float:
    return float(_losses(logit_N, label_N).sum()) + squared / 2
