"""What a model saw in training, small enough to travel in its package: sketches of inputs, labels and predictions.

Shape suffixes: B bins, N rows, K numbers of a prediction (absent where a row has one).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import BadInputError, CorruptArtifactError
from include.tasks import task_of
from include.tasks.outputs import as_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa

    from include.spec import ModelSpec
    from include.tasks.task import Constant

SCHEMA_VERSION = 2
_VERSION_WITHOUT_TASKS = 1
NUM_FINE_BINS = 100
MAX_CATEGORIES = 1000
MISSING = ""
"""How a categorical input without a value is written."""


@dataclass(frozen=True, kw_only=True)
class NumericSketch:
    """Counts of a numeric input over the training set's percentiles.

    Args:
        edges: Inner edges, rising; bin b holds edges[b - 1] <= value < edges[b].
        counts: One more than edges.
        num_missing: Rows without a value; they are in no bin.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    num_missing: int

    def count(self, values_N: np.ndarray) -> np.ndarray:
        """Return counts of values over this sketch's bins; missing ones (NaN) are left out."""
        import numpy as np

        present_N = values_N[~np.isnan(values_N)]
        bin_N = np.searchsorted(np.asarray(self.edges, dtype=np.float64), present_N, side="right")
        return np.bincount(bin_N, minlength=len(self.counts))


@dataclass(frozen=True, kw_only=True)
class CategoricalSketch:
    """Counts of a categorical input by value, the most frequent first; `other` holds what did not fit."""

    counts: Mapping[str, int]
    other: int
    num_missing: int


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A version's training data as the monitor sees it.

    Args:
        num_rows: Rows that were sketched.
        baseline: The best constant answer to them: a base rate, class shares, or a mean; None without labels.
        label: Sketch of their labels; None without labels.
        numeric: Input -> sketch.
        categorical: Input -> sketch.
        outputs: Sketch of each number of the version's own predictions of these rows.
    """

    num_rows: int
    baseline: Constant | None
    label: NumericSketch | CategoricalSketch | None
    numeric: Mapping[str, NumericSketch]
    categorical: Mapping[str, CategoricalSketch]
    outputs: tuple[NumericSketch, ...]


def make_reference(*, table: pa.Table, predicted_BK: np.ndarray, spec: ModelSpec) -> dict[str, Any]:
    """Return the JSON-able reference of a version: write it as `drift_reference.json` into its package.

    Args:
        table: Rows the version was trained on, with every input of the spec as a column, and `label` if known.
        predicted_BK: The version's prediction of each of these rows, in the same order.
        spec: The model's spec.

    Raises:
        BadInputError: There are no rows, another number of predictions, or an input is not a column.
    """
    inputs = (*spec.features.categorical, *spec.features.numeric)
    absent = [name for name in inputs if name not in table.column_names]
    if absent or table.num_rows == 0 or table.num_rows != len(predicted_BK):
        raise BadInputError(
            f"a drift reference of {spec.name!r} needs rows, each input as a column, and one prediction a row; "
            f"got {table.num_rows} rows, {len(predicted_BK)} predictions, no column {absent}. "
            "Nothing was written. Pass all of them."
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "num_rows": table.num_rows,
        **_labels(table, spec=spec),
        "numeric": {name: _sketch_numeric(as_float(table, name)) for name in spec.features.numeric},
        "categorical": {name: _sketch_categorical(table, name) for name in spec.features.categorical},
        "outputs": [_sketch_numeric(output_N) for output_N in as_columns(predicted_BK).astype("float64").T],
    }


def parse_reference(text: str) -> Reference:
    """Return the reference that `make_reference` made.

    Raises:
        CorruptArtifactError: The text is not one, or is one of another schema version.
    """
    try:
        raw = _current(json.loads(text))
        return Reference(
            num_rows=int(raw["num_rows"]),
            baseline=raw["baseline"],
            label=None if raw["label"] is None else _sketch(raw["label"]),
            numeric={name: _numeric(sketch) for name, sketch in raw["numeric"].items()},
            categorical={name: CategoricalSketch(**sketch) for name, sketch in raw["categorical"].items()},
            outputs=tuple(_numeric(sketch) for sketch in raw["outputs"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(
            f"drift_reference.json must be readable; got {error!r}. Nothing was measured. Register the version again."
        ) from error


def _current(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a document as this version writes it; the first version knew true and false labels only."""
    if raw["schema_version"] == _VERSION_WITHOUT_TASKS:
        rate, num_rows = raw["label_frac"], int(raw["num_rows"])
        num_true = round((rate or 0.0) * num_rows)
        counts = {"true": num_true, "false": num_rows - num_true}
        label = None if rate is None else {"counts": counts, "other": 0, "num_missing": 0}
        return {**raw, "baseline": rate, "label": label, "outputs": [raw["scores"]]}
    if raw["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema_version {raw['schema_version']}, not {SCHEMA_VERSION}")
    return raw


def as_float(table: pa.Table, name: str) -> np.ndarray:
    """Return a numeric or boolean column as float64, with NaN for missing values."""
    import pyarrow as pa

    column = table.column(name).cast(pa.float64())
    return column.to_numpy()


def _labels(table: pa.Table, *, spec: ModelSpec) -> dict[str, Any]:
    """Return the best constant for the labels that are known, and their sketch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = table.filter(pc.is_valid(table["label"])) if "label" in table.column_names else None
    if known is None or not known.num_rows:
        return {"baseline": None, "label": None}
    task = task_of(spec)
    is_number = pa.types.is_floating(known["label"].type)
    return {
        "baseline": task.constant(task.encode(known["label"])),
        "label": _sketch_numeric(as_float(known, "label")) if is_number else _sketch_categorical(known, "label"),
    }


def _sketch_numeric(values_N: np.ndarray) -> dict[str, Any]:
    import numpy as np

    present_N = values_N[~np.isnan(values_N)]
    inner = np.arange(1, NUM_FINE_BINS) / NUM_FINE_BINS
    # Quantiles that are data points keep equal values in one bin; inf would be no JSON.
    edges_B = np.unique(np.quantile(present_N, inner, method="higher")) if present_N.size else np.empty(0)
    edges_B = edges_B[np.isfinite(edges_B)]
    counts_B = np.bincount(np.searchsorted(edges_B, present_N, side="right"), minlength=edges_B.size + 1)
    return {
        "edges": edges_B.tolist(),
        "counts": counts_B.tolist(),
        "num_missing": int(values_N.size - present_N.size),
    }


def _sketch_categorical(table: pa.Table, name: str) -> dict[str, Any]:
    counts = category_counts(table, name)
    num_missing = counts.pop(MISSING, 0)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept, rest = ranked[:MAX_CATEGORIES], ranked[MAX_CATEGORIES:]
    return {"counts": dict(kept), "other": sum(count for _, count in rest), "num_missing": num_missing}


def category_counts(table: pa.Table, name: str) -> dict[str, int]:
    """Return value -> number of rows; a missing value is `MISSING`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.fill_null(table.column(name).cast(pa.string()), MISSING)
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def _sketch(raw: Mapping[str, Any]) -> NumericSketch | CategoricalSketch:
    return _numeric(raw) if "edges" in raw else CategoricalSketch(**raw)


def _numeric(raw: Mapping[str, Any]) -> NumericSketch:
    sketch = NumericSketch(edges=tuple(raw["edges"]), counts=tuple(raw["counts"]), num_missing=int(raw["num_missing"]))
    if len(sketch.counts) != len(sketch.edges) + 1:
        raise ValueError(f"{len(sketch.counts)} counts for {len(sketch.edges)} edges")
    return sketch
