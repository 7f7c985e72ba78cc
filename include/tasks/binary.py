"""A label that is true or false; a row's prediction is the probability of true.

Shape suffix: B rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from include.tasks.calibration import fit_logit_affine, logit_calibration
from include.tasks.outputs import probability_problem
from include.tasks.task import Head, LabelType, Metrics
from include.training.metrics import auc, expected_calibration_error, log_losses

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa
    import torch

    from include.tasks.calibration import Calibration

EVEN_ODDS = 0.5


@dataclass(frozen=True)
class BinaryClassification:
    """Implements `Task`; the loss is the log loss in nats."""

    output: ClassVar[str] = "probability"
    classes: ClassVar[tuple[str, ...]] = ()
    label_type: ClassVar[LabelType] = "bool"
    loss_name: ClassVar[str] = "log loss"
    loss_unit: ClassVar[str] = "nats"
    metric_names: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"positive_frac": "positive", "auc": "AUC", "ece": "calibration error"}
    )

    def accepts(self, kind: pa.DataType) -> bool:
        """Return whether a column is boolean, or empty."""
        import pyarrow as pa

        return bool(pa.types.is_boolean(kind) or pa.types.is_null(kind))

    def label_problem(self, column: pa.ChunkedArray) -> str | None:
        """Return what is wrong unless each row says true or false."""
        if self.accepts(column.type) and not column.null_count:
            return None
        return f"a true or false label in each row; got {column.null_count} missing, type {column.type}"

    def encode(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return labels as 0 or 1, float32."""
        import numpy as np
        import pyarrow as pa

        return np.from_dlpack(column.cast(pa.uint8()).combine_chunks()).astype(np.float32)

    def train_problem(self, label_B: np.ndarray) -> str | None:
        """Return that one outcome is absent, if it is."""
        is_mixed = 0 < float(label_B.mean()) < 1
        return None if is_mixed else f"both outcomes among its training rows; got only {bool(label_B[0])}"

    def head(self, label_B: np.ndarray) -> Head:
        """Return one logit that starts at the base rate."""
        rate = float(label_B.mean())
        return Head(bias=(math.log(rate / (1 - rate)),))

    def train_loss(self, raw_BK: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
        """Return the mean log loss of logits."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(raw_BK, label_B)

    def link(self, raw_BK: torch.Tensor) -> torch.Tensor:
        """Return the sigmoid of logits."""
        return raw_BK.sigmoid()

    def fit_trees(
        self, features_BD: np.ndarray, label_B: np.ndarray, *, categorical: list[int], seed: int, of_BD: np.ndarray
    ) -> np.ndarray:
        """Return the probabilities of boosted trees."""
        import numpy as np
        from sklearn.ensemble import HistGradientBoostingClassifier

        trees = HistGradientBoostingClassifier(
            random_state=seed, early_stopping=False, categorical_features=categorical
        )
        return np.asarray(trees.fit(features_BD, label_B).predict_proba(of_BD)[:, 1])

    def constant(self, label_B: np.ndarray) -> float:
        """Return the base rate: the share of true labels."""
        return float(label_B.mean())

    def losses(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> np.ndarray:
        """Return log losses in nats."""
        return log_losses(label_B=label_B, probability_B=predicted_BK)

    def metrics(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> Metrics:
        """Return the share of positives, AUC (None with one outcome) and the calibration error."""
        return {
            "positive_frac": float(label_B.mean()),
            "auc": auc(label_B=label_B, probability_B=predicted_BK),
            "ece": expected_calibration_error(label_B=label_B, probability_B=predicted_BK),
        }

    def agree(self, one_BK: np.ndarray, other_BK: np.ndarray, *, tolerance: float | None) -> np.ndarray:  # noqa: ARG002 - of regression
        """Return whether both are on one side of even odds."""
        return (one_BK >= EVEN_ODDS) == (other_BK >= EVEN_ODDS)

    def prediction_problem(self, predicted_BK: np.ndarray, *, num_rows: int) -> str | None:
        """Return what is wrong unless each row has a probability."""
        return probability_problem(predicted_BK, shape=(num_rows,))

    def unit(self, predicted_BK: np.ndarray) -> float:  # noqa: ARG002 - of regression
        """Return 1."""
        return 1.0

    def calibrate(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> Calibration:
        """Return the logistic recalibration of Cox (1958)."""
        slope, intercept = fit_logit_affine(label_N=label_B, probability_N=predicted_BK)
        return logit_calibration(slope=slope, intercept=intercept)
