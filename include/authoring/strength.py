"""How much of the label one column explains by itself: what is too good to be known before is a leak.

Shape suffixes: B rows, G groups of a column's values, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.authoring.typed import codes, floats

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from include.spec.tasks import TaskName

NUM_GROUPS = 64
_PRIOR_ROWS = 2.0
_MIN_ROWS = 20


def strength_of(column: pa.ChunkedArray, *, label: pa.ChunkedArray, task: TaskName) -> float:
    """Return the share of a label's loss that vanishes if one column is known, on rows that were not looked at.

    The even rows say what each group of the column's values predicts (each category; each quantile of a number; nothing
    is a group too), the odd rows how good that is: squared error for a regression, log loss otherwise.

    Returns:
        About 0 for a column that says nothing, less for one that only seems to, 1 for one that says all.
    """
    import pyarrow.compute as pc

    present = pc.is_valid(label)
    column, label = column.filter(present), label.filter(present)
    if len(label) < _MIN_ROWS:
        return 0.0
    groups_B = _groups(column)
    target_BK = floats(label)[:, None] if task == "regression" else _one_hot(codes(label))
    return _share_explained(groups_B, target_BK, is_regression=task == "regression")


def _groups(column: pa.ChunkedArray) -> np.ndarray:
    import numpy as np
    import pyarrow as pa

    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return codes(column) + 1
    value_B = floats(column)
    present_B = value_B[~np.isnan(value_B)]
    edges = np.unique(np.quantile(present_B, np.linspace(0, 1, NUM_GROUPS + 1))) if len(present_B) else np.zeros(1)
    return np.where(np.isnan(value_B), 0, np.searchsorted(edges, value_B, side="right") + 1)


def _one_hot(codes_B: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.eye(int(codes_B.max()) + 1)[codes_B]


def _share_explained(groups_B: np.ndarray, target_BK: np.ndarray, *, is_regression: bool) -> float:
    import numpy as np

    fit, test = slice(0, None, 2), slice(1, None, 2)
    num_groups = int(groups_B.max()) + 1
    overall_K = target_BK[fit].mean(axis=0)
    count_G = np.bincount(groups_B[fit], minlength=num_groups)
    sum_GK = np.stack([np.bincount(groups_B[fit], weights=t, minlength=num_groups) for t in target_BK[fit].T], axis=1)
    mean_GK = (sum_GK + _PRIOR_ROWS * overall_K) / (count_G + _PRIOR_ROWS)[:, None]
    found_BK, wanted_BK = mean_GK[groups_B[test]], target_BK[test]
    if is_regression:
        loss, baseline = np.mean((found_BK - wanted_BK) ** 2), np.mean((overall_K - wanted_BK) ** 2)
    else:
        loss = -np.mean(np.log(np.maximum((found_BK * wanted_BK).sum(axis=1), 1e-9)))
        baseline = -np.mean(np.log(np.maximum((overall_K * wanted_BK).sum(axis=1), 1e-9)))
    return float(1 - loss / baseline) if baseline > 0 else 0.0
