"""A label that is a number; a row's prediction is a number in the same unit.

Shape suffix: B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from include.tasks.calibration import fit_affine, number_calibration
from include.tasks.task import Head, LabelType, Metrics
from include.training.metrics import regression_metrics, residuals

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa
    import torch

    from include.spec import LossName
    from include.tasks.calibration import Calibration

_SMALLEST_SHARE = 0.01
"""Of the largest prediction: the least unit of a difference, where all predictions are alike."""


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Implements `Task`.

    Args:
        loss: squared_error, absolute_error or huber.
        huber_delta: Error in the label's unit beyond which `huber` counts linearly.
    """

    loss: LossName
    huber_delta: float

    output: ClassVar[str] = "prediction"
    classes: ClassVar[tuple[str, ...]] = ()
    label_type: ClassVar[LabelType] = "float64"
    loss_unit: ClassVar[str] = ""
    metric_names: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"mean_label": "mean label", "rmse": "RMSE", "mae": "MAE", "r2": "R2"}
    )

    @property
    def loss_name(self) -> str:
        """The loss' own name."""
        names = {"squared_error": "mean squared error", "absolute_error": "mean absolute error"}
        return names.get(self.loss, "Huber loss")

    def accepts(self, kind: pa.DataType) -> bool:
        """Return whether a column holds numbers, or is empty."""
        import pyarrow as pa

        is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
        return bool(is_number or pa.types.is_null(kind))

    def label_problem(self, column: pa.ChunkedArray) -> str | None:
        """Return what is wrong unless each row has a finite number."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = "a finite number as label in each row"
        if column.null_count or not self.accepts(column.type):
            return f"{wanted}; got {column.null_count} missing, type {column.type}"
        num_finite = pc.sum(pc.is_finite(column.cast(pa.float64()))).as_py() or 0
        return f"{wanted}; got {len(column) - num_finite} NaN or infinite" if num_finite < len(column) else None

    def encode(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return labels as float64."""
        import numpy as np
        import pyarrow as pa

        return np.from_dlpack(column.cast(pa.float64()).combine_chunks()).copy()

    def train_problem(self, label_B: np.ndarray) -> str | None:
        """Return that all labels are equal, if they are."""
        is_constant = float(label_B.min()) == float(label_B.max())
        return f"different labels among its training rows; got only {float(label_B[0]):g}" if is_constant else None

    def head(self, label_B: np.ndarray) -> Head:
        """Return one output that starts at the best constant, in units of the labels' standard deviation."""
        return Head(bias=(0.0,), offset=self.constant(label_B), scale=float(label_B.std()))

    def train_loss(self, raw_BK: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of predictions."""
        from torch.nn import functional

        if self.loss == "huber":
            return functional.huber_loss(raw_BK, label_B, delta=self.huber_delta)
        return (
            functional.l1_loss(raw_BK, label_B)
            if self.loss == "absolute_error"
            else functional.mse_loss(raw_BK, label_B)
        )

    def link(self, raw_BK: torch.Tensor) -> torch.Tensor:
        """Return the outputs as they are: the network's last layer is in the label's unit."""
        return raw_BK

    def fit_trees(
        self, features_BD: np.ndarray, label_B: np.ndarray, *, categorical: list[int], seed: int, of_BD: np.ndarray
    ) -> np.ndarray:
        """Return the predictions of boosted trees; scikit-learn's know no Huber loss and then learn absolute errors."""
        import numpy as np
        from sklearn.ensemble import HistGradientBoostingRegressor

        trees = HistGradientBoostingRegressor(
            loss="squared_error" if self.loss == "squared_error" else "absolute_error",
            random_state=seed,
            early_stopping=False,
            categorical_features=categorical,
        )
        return np.asarray(trees.fit(features_BD, label_B).predict(of_BD))

    def constant(self, label_B: np.ndarray) -> float:
        """Return the mean for squared errors, the median for absolute ones, Huber's location between them.

        Source: Huber (1964), Ann. Math. Stat. 35(1), equation 2.1, for the location: sum_b clip(y_b - c, -d, d) = 0.
        """
        import numpy as np
        from scipy.optimize import brentq

        if self.loss == "squared_error":
            return float(np.mean(label_B))
        if self.loss == "absolute_error" or label_B.min() == label_B.max():
            return float(np.median(label_B))

        def pull(location: float) -> float:
            return float(np.clip(label_B - location, -self.huber_delta, self.huber_delta).sum())

        return float(brentq(pull, float(label_B.min()), float(label_B.max())))

    def losses(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> np.ndarray:
        """Return e^2, |e|, or e^2 / 2 up to delta and delta (|e| - delta / 2) beyond, with e = label - prediction.

        Source: Huber (1964), Ann. Math. Stat. 35(1), for the last.
        """
        import numpy as np

        error_B = np.abs(residuals(label_B=label_B, prediction_B=predicted_BK))
        if self.loss == "squared_error":
            return error_B**2
        if self.loss == "absolute_error":
            return error_B
        delta = self.huber_delta
        return np.where(error_B <= delta, error_B**2 / 2, delta * (error_B - delta / 2))

    def metrics(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> Metrics:
        """Return the mean label, RMSE and MAE in its unit, and R2 (None if all labels are equal)."""
        return {
            "mean_label": float(label_B.mean()),
            **regression_metrics(label_B=label_B, prediction_B=predicted_BK),
        }

    def agree(self, one_BK: np.ndarray, other_BK: np.ndarray, *, tolerance: float | None) -> np.ndarray:
        """Return whether two predictions differ by at most the tolerance, in the label's unit."""
        import numpy as np

        return np.abs(one_BK - other_BK) <= (tolerance or 0.0)

    def prediction_problem(self, predicted_BK: np.ndarray, *, num_rows: int) -> str | None:
        """Return what is wrong unless each row has a finite number."""
        import numpy as np

        if predicted_BK.shape == (num_rows,) and bool(np.isfinite(predicted_BK).all()):
            return None
        return f"{num_rows} finite numbers; got shape {predicted_BK.shape}, values {predicted_BK.ravel()[:3].tolist()}"

    def unit(self, predicted_BK: np.ndarray) -> float:
        """Return the standard deviation of the predictions, or a hundredth of the largest where they hardly differ."""
        import numpy as np

        return max(float(np.std(predicted_BK)), _SMALLEST_SHARE * float(np.max(np.abs(predicted_BK), initial=0.0)))

    def calibrate(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> Calibration:
        """Return the straight line from predictions to labels that has the least loss."""
        slope, intercept = fit_affine(
            label_N=label_B, prediction_N=predicted_BK, loss=self.loss, huber_delta=self.huber_delta
        )
        return number_calibration(slope=slope, intercept=intercept)
