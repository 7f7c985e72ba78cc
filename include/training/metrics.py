"""How well predictions match what happened; the tasks choose which of these a model is measured by.

Shape suffixes: B rows, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.errors import InconclusiveError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

_SMALLEST = 1e-7


def log_losses(*, label_B: ArrayLike, probability_B: ArrayLike) -> np.ndarray:
    """Return each row's negative log likelihood of its binary outcome, in nats, shape (B,); lower is better.

    L_b = -(y_b ln p_b + (1 - y_b) ln(1 - p_b)), with p clipped to [1e-7, 1 - 1e-7].
    Source: I. J. Good, Rational Decisions, 1952; its mean is checked against scikit-learn's log_loss.

    Args:
        label_B: Outcomes, 0 or 1, shape (B,).
        probability_B: Probabilities of outcome 1, shape (B,).

    Raises:
        InconclusiveError: No rows, or unequal shapes.

    >>> log_losses(label_B=[0, 1], probability_B=[0.5, 0.5]).round(6).tolist()
    [0.693147, 0.693147]
    """
    import numpy as np

    label_B, probability_B = _checked(label_B, probability_B)
    clipped_B = np.clip(probability_B, _SMALLEST, 1 - _SMALLEST)
    return -np.where(label_B > 0, np.log(clipped_B), np.log1p(-clipped_B))


def class_log_losses(*, label_B: np.ndarray, probability_BK: np.ndarray) -> np.ndarray:
    """Return the negative log probability of each row's own class, in nats, shape (B,); lower is better.

    L_b = -ln p_b[y_b], with p clipped to [1e-7, 1].
    Source: I. J. Good, Rational Decisions, 1952; checked against scikit-learn's log_loss.

    Args:
        label_B: Classes by their position, integers from 0 to K - 1, shape (B,).
        probability_BK: Probabilities of the classes, shape (B, K).

    Raises:
        InconclusiveError: No rows, unequal shapes, or no probabilities.

    >>> import numpy as np
    >>> class_log_losses(label_B=np.array([2]), probability_BK=np.array([[0.25, 0.25, 0.5]])).round(6).tolist()
    [0.693147]
    """
    import numpy as np

    label_B, probability_BK = _checked(label_B, probability_BK)
    own_B = np.take_along_axis(probability_BK, label_B.astype(np.int64)[:, None], axis=1)[:, 0]
    return -np.log(np.clip(own_B, _SMALLEST, 1))


def accuracy(*, label_B: np.ndarray, probability_BK: np.ndarray) -> float:
    """Return the share of rows whose most likely class is their own; checked against scikit-learn's accuracy_score.

    Args:
        label_B: Classes by their position, integers from 0 to K - 1, shape (B,).
        probability_BK: Probabilities of the classes, shape (B, K).

    Raises:
        InconclusiveError: No rows, unequal shapes, or no probabilities.
    """
    label_B, probability_BK = _checked(label_B, probability_BK)
    return float((probability_BK.argmax(axis=1) == label_B).mean())


def regression_metrics(*, label_B: np.ndarray, prediction_B: np.ndarray) -> dict[str, float | None]:
    """Return `rmse` and `mae` in the label's unit, and `r2`, which is None if all labels are equal.

    rmse = sqrt(mean_b e_b^2), mae = mean_b |e_b|, r2 = 1 - sum_b e_b^2 / sum_b (y_b - mean y)^2, with e = y - f.
    Source: Wright (1921), Correlation and Causation, for r2; checked against scikit-learn.

    Args:
        label_B: Numbers, shape (B,).
        prediction_B: What was predicted of them, shape (B,).

    Raises:
        InconclusiveError: No rows, unequal shapes, or a number that is not finite.

    >>> import numpy as np
    >>> regression_metrics(label_B=np.array([1.0, 3.0]), prediction_B=np.array([1.0, 2.0]))
    {'rmse': 0.7071067811865476, 'mae': 0.5, 'r2': 0.5}
    """
    import numpy as np

    error_B = residuals(label_B=label_B, prediction_B=prediction_B)
    total = float(np.sum((np.asarray(label_B, dtype=np.float64) - np.mean(label_B, dtype=np.float64)) ** 2))
    squares = float(np.sum(error_B**2))
    return {
        "rmse": (squares / len(error_B)) ** 0.5,
        "mae": float(np.abs(error_B).mean()),
        "r2": 1 - squares / total if total > 0 else None,
    }


def residuals(*, label_B: np.ndarray, prediction_B: np.ndarray) -> np.ndarray:
    """Return label minus prediction, float64, shape (B,).

    Raises:
        InconclusiveError: No rows, unequal shapes, or a number that is not finite.
    """
    import numpy as np

    label_B, prediction_B = _same_rows(label_B, prediction_B)
    if label_B.shape != prediction_B.shape or not (np.isfinite(label_B).all() and np.isfinite(prediction_B).all()):
        raise InconclusiveError(
            f"a metric needs finite labels and predictions; got shapes {label_B.shape} and {prediction_B.shape}, or "
            "NaN. Nothing was measured. Look at the model."
        )
    return label_B - prediction_B


def auc(*, label_B: ArrayLike, probability_B: ArrayLike) -> float | None:
    """Return the chance that a positive row scores above a negative one, ties half; None if one class is absent.

    AUC = (sum of the positives' mean ranks - P (P + 1) / 2) / (P N), for P positives and N negatives.
    Source: Hanley and McNeil, Radiology 143, 1982; checked against scikit-learn's roc_auc_score.

    Args:
        label_B: Outcomes, 0 or 1, shape (B,).
        probability_B: Scores, shape (B,).

    Raises:
        InconclusiveError: No rows, or unequal shapes.

    >>> auc(label_B=[0, 0, 1, 1], probability_B=[0.1, 0.4, 0.35, 0.8])
    0.75
    """
    import numpy as np

    label_B, probability_B = _checked(label_B, probability_B)
    num_positive = int(np.count_nonzero(label_B > 0))
    num_negative = len(label_B) - num_positive
    if not num_positive or not num_negative:
        return None
    _, inverse_B, count_U = np.unique(probability_B, return_inverse=True, return_counts=True)
    mean_rank_U = np.cumsum(count_U) - (count_U - 1) / 2
    rank_sum = float(mean_rank_U[inverse_B][label_B > 0].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def expected_calibration_error(*, label_B: ArrayLike, probability_B: ArrayLike, num_bins: int = 15) -> float:
    """Return the mean gap between confidence and outcome over bins of equal width, weighted by rows; 0 is calibrated.

    ECE = sum_k (B_k / B) |mean(y in k) - mean(p in k)|.
    Source: Naeini, Cooper and Hauskrecht, AAAI 2015, equation 3.

    Args:
        label_B: Outcomes, 0 or 1, shape (B,).
        probability_B: Probabilities of outcome 1, shape (B,).
        num_bins: Bins of [0, 1].

    Raises:
        InconclusiveError: No rows, or unequal shapes.

    >>> expected_calibration_error(label_B=[0, 1], probability_B=[0.25, 0.75])
    0.25
    """
    import numpy as np

    label_B, probability_B = _checked(label_B, probability_B)
    bin_B = np.minimum((probability_B * num_bins).astype(np.int64), num_bins - 1)
    gap_K = np.bincount(bin_B, weights=label_B - probability_B, minlength=num_bins)
    return float(np.abs(gap_K).sum() / len(label_B))


def _checked(label_B: ArrayLike, probability_B: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    label_B, probability_B = _same_rows(label_B, probability_B)
    if not np.isfinite(probability_B).all() or probability_B.min() < 0 or probability_B.max() > 1:
        raise InconclusiveError(
            "a metric needs probabilities in 0 to 1; got others or NaN. Nothing was measured. Look at the model."
        )
    return label_B, probability_B


def _same_rows(label_B: ArrayLike, predicted_B: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    label_B, predicted_B = np.asarray(label_B, dtype=np.float64), np.asarray(predicted_B, dtype=np.float64)
    if label_B.ndim != 1 or label_B.shape != predicted_B.shape[:1] or not len(label_B):
        raise InconclusiveError(
            f"a metric needs at least 1 label and as many predictions; got shapes {label_B.shape} and "
            f"{predicted_B.shape}. Nothing was measured. Gather labelled rows first."
        )
    return label_B, predicted_B
