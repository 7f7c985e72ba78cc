"""How much of a model's loss is worth a training: what its own predictions would win by a mere recalibration.

Shape suffixes: N rows, K classes (absent where a row has one number), G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import InconclusiveError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from include.tasks import Task

MIN_GROUPS = 5
"""Days in the later half below which the spread between days says nothing."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Loss that recalibrated predictions would have won, in the unit of the loss.

    Args:
        mean: A row of the later half; negative: recalibration would have lost.
        standard_error: Of the mean, from the spread between days.
        parameters: Of the map that was fitted on the earlier half, by name.
        num_rows: Rows of the later half.
    """

    mean: float
    standard_error: float
    parameters: Mapping[str, float]
    num_rows: int


def forward_gain(*, task: Task, label_N: np.ndarray, predicted_NK: np.ndarray, day_N: np.ndarray) -> Gain:
    """Return what a recalibration on the earlier half of the days would have won on the later half.

    Forward in time, as a new version would be used: a month whose second half differs from its first shows a loss
    here, where random halves would show a gain. Rows of one day share their weather, so the error of the mean is the
    cluster-robust one: se^2 = G / (G - 1) * sum_g (sum_{i in g} (d_i - d))^2 / N^2.
    Source: Liang and Zeger (1986), Biometrika 73(1), for the clustered variance; `include.tasks` for the maps.

    Args:
        task: What the labels and predictions are.
        label_N: Labels as numbers, shape (N,).
        predicted_NK: Predictions, shape (N,) or (N, K).
        day_N: Integer day of each row, shape (N,); any order.

    Raises:
        InconclusiveError: Fewer than 5 days in the later half, or only one label in the earlier.
    """
    import numpy as np

    days_G = np.unique(day_N)
    middle = days_G[len(days_G) // 2] if len(days_G) else 0
    earlier_N = day_N < middle
    num_later_days = int((days_G >= middle).sum())
    if num_later_days < MIN_GROUPS or len(np.unique(label_N[earlier_N])) < 2:  # noqa: PLR2004 - else nothing to fit
        raise InconclusiveError(
            f"expected gain needs at least {MIN_GROUPS} days in each half and two different labels in the earlier; got "
            f"{len(days_G)} days, {int(earlier_N.sum())} earlier rows. Nothing was measured. Gather more days."
        )
    fitted = task.calibrate(label_N[earlier_N], predicted_NK[earlier_N])
    label_N, predicted_NK, day_N = label_N[~earlier_N], predicted_NK[~earlier_N], day_N[~earlier_N]
    won_N = task.losses(label_N, predicted_NK) - task.losses(label_N, fitted.apply(predicted_NK))
    mean = float(won_N.mean())
    _, group_N = np.unique(day_N, return_inverse=True)
    deviation_G = np.bincount(group_N, weights=won_N - mean)
    variance = len(deviation_G) / (len(deviation_G) - 1) * float(np.sum(deviation_G**2)) / len(won_N) ** 2
    return Gain(mean=mean, standard_error=variance**0.5, parameters=fitted.parameters, num_rows=len(won_N))
