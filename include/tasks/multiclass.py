"""A label that is one of several classes; a row's prediction is a probability for each.

Shape suffixes: B rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from include.tasks.calibration import class_calibration, fit_class_calibration
from include.tasks.outputs import probability_problem
from include.tasks.task import Head, LabelType, Metrics
from include.training.metrics import accuracy, class_log_losses, expected_calibration_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa
    import torch

    from include.tasks.calibration import Calibration

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class MulticlassClassification:
    """Implements `Task`; the loss is the log loss in nats.

    Args:
        classes: Every value of a label, in the order of the probabilities.
    """

    classes: tuple[str, ...]

    output: ClassVar[str] = "probabilities"
    label_type: ClassVar[LabelType] = "string"
    loss_name: ClassVar[str] = "log loss"
    loss_unit: ClassVar[str] = "nats"
    metric_names: ClassVar[Mapping[str, str]] = MappingProxyType({"accuracy": "accuracy", "ece": "calibration error"})

    def accepts(self, kind: pa.DataType) -> bool:
        """Return whether a column holds texts, or is empty."""
        import pyarrow as pa

        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        return bool(is_text or pa.types.is_null(kind))

    def label_problem(self, column: pa.ChunkedArray) -> str | None:
        """Return what is wrong unless each row names a class."""
        import pyarrow.compute as pc

        wanted = f"a label that is one of {', '.join(self.classes)} in each row"
        if column.null_count or not self.accepts(column.type):
            return f"{wanted}; got {column.null_count} missing, type {column.type}"
        unknown = sorted(set(pc.unique(column).to_pylist()) - set(self.classes))
        return f"{wanted}; got {', '.join(map(repr, unknown[:_SHOWN]))} too" if unknown else None

    def encode(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return labels as positions of their classes, int64."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.index_in(column.cast(pa.string()), value_set=pa.array(self.classes, pa.string()))
        return np.asarray(found.to_numpy(), dtype=np.int64)

    def train_problem(self, label_B: np.ndarray) -> str | None:
        """Return which classes are absent, if any."""
        import numpy as np

        seen = {int(position) for position in np.unique(label_B)}
        absent = [name for position, name in enumerate(self.classes) if position not in seen]
        return (
            f"every class of label.classes among its training rows; got no {', no '.join(absent)}" if absent else None
        )

    def head(self, label_B: np.ndarray) -> Head:
        """Return a logit for each class that starts at the log of its share."""
        import numpy as np

        return Head(bias=tuple(np.log(self.constant(label_B)).tolist()))

    def train_loss(self, raw_BK: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
        """Return the mean log loss of logits."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(raw_BK, label_B)

    def link(self, raw_BK: torch.Tensor) -> torch.Tensor:
        """Return the softmax of logits."""
        return raw_BK.softmax(dim=1)

    def fit_trees(
        self, features_BD: np.ndarray, label_B: np.ndarray, *, categorical: list[int], seed: int, of_BD: np.ndarray
    ) -> np.ndarray:
        """Return the probabilities of boosted trees."""
        import numpy as np
        from sklearn.ensemble import HistGradientBoostingClassifier

        trees = HistGradientBoostingClassifier(
            random_state=seed, early_stopping=False, categorical_features=categorical
        )
        return np.asarray(trees.fit(features_BD, label_B).predict_proba(of_BD))

    def constant(self, label_B: np.ndarray) -> list[float]:
        """Return each class' share of the labels."""
        import numpy as np

        shares: list[float] = (np.bincount(label_B, minlength=len(self.classes)) / len(label_B)).tolist()
        return shares

    def losses(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> np.ndarray:
        """Return log losses in nats."""
        return class_log_losses(label_B=label_B, probability_BK=predicted_BK)

    def metrics(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> Metrics:
        """Return the accuracy and the calibration error of the most likely class.

        Source: Guo, Pleiss, Sun and Weinberger (2017), ICML, equation 3, for the error over the most likely class.
        """
        import numpy as np

        is_right_B = predicted_BK.argmax(axis=1) == label_B
        return {
            "accuracy": accuracy(label_B=label_B, probability_BK=predicted_BK),
            "ece": expected_calibration_error(
                label_B=is_right_B, probability_B=np.minimum(predicted_BK.max(axis=1), 1.0)
            ),
        }

    def agree(self, one_BK: np.ndarray, other_BK: np.ndarray, *, tolerance: float | None) -> np.ndarray:  # noqa: ARG002 - of regression
        """Return whether the most likely class is the same."""
        return one_BK.argmax(axis=1) == other_BK.argmax(axis=1)

    def prediction_problem(self, predicted_BK: np.ndarray, *, num_rows: int) -> str | None:
        """Return what is wrong unless each row has probabilities that sum to 1."""
        return probability_problem(predicted_BK, shape=(num_rows, len(self.classes)))

    def unit(self, predicted_BK: np.ndarray) -> float:  # noqa: ARG002 - of regression
        """Return 1."""
        return 1.0

    def calibrate(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> Calibration:
        """Return one temperature and a bias for each class."""
        slope, bias_K = fit_class_calibration(label_N=label_B, probability_NK=predicted_BK)
        return class_calibration(slope=slope, bias_K=bias_K, classes=self.classes)
