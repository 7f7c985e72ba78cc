"""What a task must say: one small protocol, which the three tasks implement.

Shape suffixes: B rows; K classes, a dimension that is absent where a row has one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa
    import torch

    from include.tasks.calibration import Calibration

Metrics = dict[str, float | int | None]
LabelType = Literal["bool", "string", "float64"]
Constant = float | list[float]
"""What one answer for all rows is: a number, or a probability for each class."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The end of an untrained network.

    Args:
        bias: Start of each raw output's bias; their number is the number of outputs.
        offset: Added to what is scaled.
        scale: Factor of the raw outputs, in the label's unit; None: raw outputs stay as they are.
    """

    bias: tuple[float, ...]
    offset: float = 0.0
    scale: float | None = None


class Task(Protocol):
    """Labels, outputs, loss and metrics of one kind of model."""

    @property
    def output(self) -> str:
        """Name of what is predicted: in the graph, in answers, in the prediction log and in `scores`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Order of a row's numbers; empty where a row has one."""

    @property
    def label_type(self) -> LabelType:
        """Arrow type of the column `label`."""

    @property
    def loss_name(self) -> str:
        """The loss' own name, as people call it."""

    @property
    def loss_unit(self) -> str:
        """Unit of the loss, for messages; may be empty."""

    @property
    def metric_names(self) -> Mapping[str, str]:
        """Key of `measure`, without rows and loss -> how people call it; all are numbers or None."""

    def accepts(self, kind: pa.DataType) -> bool:
        """Return whether a column of this type can be a label of the task."""

    def label_problem(self, column: pa.ChunkedArray) -> str | None:
        """Return what the labels should be and what they are instead; None: they can be encoded."""

    def encode(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return labels that have no problem as numbers, shape (B,)."""

    def train_problem(self, label_B: np.ndarray) -> str | None:
        """Return why these labels cannot train a model; None: they can."""

    def head(self, label_B: np.ndarray) -> Head:
        """Return the end of a network that is to learn these labels."""

    def train_loss(self, raw_BK: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a network's outputs, for its gradient."""

    def link(self, raw_BK: torch.Tensor) -> torch.Tensor:
        """Return predictions from a network's outputs."""

    def fit_trees(
        self, features_BD: np.ndarray, label_B: np.ndarray, *, categorical: list[int], seed: int, of_BD: np.ndarray
    ) -> np.ndarray:
        """Return what boosted trees, fitted to rows, predict of others."""

    def constant(self, label_B: np.ndarray) -> Constant:
        """Return the one answer for all rows that has the least loss on these labels."""

    def losses(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> np.ndarray:
        """Return the loss of each row, shape (B,).

        Raises:
            InconclusiveError: No rows, unequal shapes, or predictions that are none.
        """

    def metrics(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> Metrics:
        """Return what `metric_names` names.

        Raises:
            InconclusiveError: No rows, unequal shapes, or predictions that are none.
        """

    def agree(self, one_BK: np.ndarray, other_BK: np.ndarray, *, tolerance: float | None) -> np.ndarray:
        """Return for each row whether two predictions come to the same, shape (B,)."""

    def prediction_problem(self, predicted_BK: np.ndarray, *, num_rows: int) -> str | None:
        """Return what predictions of so many rows should be and what they are instead; None: they are fine."""

    def unit(self, predicted_BK: np.ndarray) -> float:
        """Return what a small difference of two predictions is measured against: 1 for probabilities."""

    def calibrate(self, label_B: np.ndarray, predicted_BK: np.ndarray) -> Calibration:
        """Return the map of predictions that would have had the least loss on these rows."""
