"""Predictions as arrays and as Arrow columns: one number a row, or one for each class.

Shape suffixes: B rows; K numbers of a row, a dimension that is absent where there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa

    from include.tasks.task import Constant, Task

MAX_SUM_ERROR = 1e-3
"""How far from 1 the probabilities of a row's classes may sum, in float32."""


def output_type(*, num_classes: int) -> pa.DataType:
    """Return the Arrow type of a column of predictions: of lists for several classes, of numbers for 0."""
    import pyarrow as pa

    # delta-rs calls the field of a list so; another name would be another type to it.
    return pa.list_(pa.field("element", pa.float32())) if num_classes else pa.float32()


def to_numpy(column: pa.ChunkedArray | pa.Array, *, task: Task) -> np.ndarray:
    """Return a column of predictions without missing ones, float64, shape (B,) or (B, K).

    Raises:
        ValueError: A row has another number of probabilities than the task has classes.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not task.classes:
        return np.asarray(column.cast(pa.float64()).to_numpy())
    found_B = np.asarray(pc.list_value_length(column).to_numpy())
    if np.any(found_B != len(task.classes)):
        raise ValueError(f"{len(task.classes)} probabilities a row; got {sorted(set(found_B.tolist()))}")
    flat = pc.list_flatten(column).cast(pa.float64()).to_numpy()
    return np.asarray(flat).reshape(len(column), len(task.classes))


def as_columns(predicted_BK: np.ndarray) -> np.ndarray:
    """Return predictions with a dimension for the numbers of a row, shape (B, K), K = 1 where there was none."""
    return predicted_BK.reshape(len(predicted_BK), -1)


def repeat(constant: Constant, *, num_rows: int) -> np.ndarray:
    """Return one answer for all rows as predictions, shape (B,) or (B, K)."""
    import numpy as np

    value = np.asarray(constant, dtype=np.float64)
    return np.broadcast_to(value, (num_rows, *value.shape))


def probability_problem(predicted_BK: np.ndarray, *, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with probabilities of this shape; those of several classes must sum to 1."""
    import numpy as np

    found = predicted_BK
    is_right = found.shape == shape and bool(np.all((found >= 0) & (found <= 1)))  # NaN compares false
    if is_right and len(shape) > 1:
        is_right = bool(np.all(np.abs(found.sum(axis=1) - 1) <= MAX_SUM_ERROR))
    if is_right:
        return None
    values: Sequence[Any] = found.ravel()[:3].tolist()
    return f"probabilities within 0 to 1, shape {shape}; got shape {found.shape}, values {values}"
