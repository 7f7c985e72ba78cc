"""What a model saw in training, small enough to travel in its package: a sketch of each input and of the scores.

Shape suffixes: B bins, N rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import BadInputError, CorruptArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa

    from include.spec import ModelSpec

SCHEMA_VERSION = 1
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
        label_frac: Share of positive labels among them: the constant base rate; None without labels.
        numeric: Input -> sketch.
        categorical: Input -> sketch.
        scores: Sketch of the version's own scores on these rows.
    """

    num_rows: int
    label_frac: float | None
    numeric: Mapping[str, NumericSketch]
    categorical: Mapping[str, CategoricalSketch]
    scores: NumericSketch


def make_reference(*, table: pa.Table, scores: Sequence[float], spec: ModelSpec) -> dict[str, Any]:
    """Return the JSON-able reference of a version: write it as `drift_reference.json` into its package.

    Args:
        table: Rows the version was trained on, with every input of the spec as a column, and `label` if known.
        scores: The version's probability for each of these rows, in the same order.
        spec: The model's spec.

    Raises:
        BadInputError: There are no rows, another number of scores, or an input is not a column.
    """
    inputs = (*spec.features.categorical, *spec.features.numeric)
    absent = [name for name in inputs if name not in table.column_names]
    if absent or table.num_rows == 0 or table.num_rows != len(scores):
        raise BadInputError(
            f"a drift reference of {spec.name!r} needs rows, each input as a column, and one score a row; got "
            f"{table.num_rows} rows, {len(scores)} scores, no column {absent}. Nothing was written. Pass all of them."
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "num_rows": table.num_rows,
        "label_frac": _label_frac(table),
        "numeric": {name: _sketch_numeric(as_float(table, name)) for name in spec.features.numeric},
        "categorical": {name: _sketch_categorical(table, name) for name in spec.features.categorical},
        "scores": _sketch_numeric(_floats(scores)),
    }


def parse_reference(text: str) -> Reference:
    """Return the reference that `make_reference` made.

    Raises:
        CorruptArtifactError: The text is not one, or is one of another schema version.
    """
    try:
        raw = json.loads(text)
        _require_version(raw["schema_version"])
        return Reference(
            num_rows=int(raw["num_rows"]),
            label_frac=raw["label_frac"],
            numeric={name: _numeric(sketch) for name, sketch in raw["numeric"].items()},
            categorical={name: CategoricalSketch(**sketch) for name, sketch in raw["categorical"].items()},
            scores=_numeric(raw["scores"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(
            f"drift_reference.json must be readable; got {error!r}. Nothing was measured. Register the version again."
        ) from error


def _require_version(found: object) -> None:
    if found != SCHEMA_VERSION:
        raise ValueError(f"schema_version {found}, not {SCHEMA_VERSION}")


def as_float(table: pa.Table, name: str) -> np.ndarray:
    """Return a numeric or boolean column as float64, with NaN for missing values."""
    import pyarrow as pa

    column = table.column(name).cast(pa.float64())
    return column.to_numpy()


def _label_frac(table: pa.Table) -> float | None:
    import numpy as np

    if "label" not in table.column_names:
        return None
    label_N = as_float(table, "label")
    return float(np.nanmean(label_N)) if np.isfinite(label_N).any() else None


def _floats(values: Sequence[float]) -> np.ndarray:
    import numpy as np

    return np.asarray(values, dtype=np.float64)


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


def _numeric(raw: Mapping[str, Any]) -> NumericSketch:
    sketch = NumericSketch(edges=tuple(raw["edges"]), counts=tuple(raw["counts"]), num_missing=int(raw["num_missing"]))
    if len(sketch.counts) != len(sketch.edges) + 1:
        raise ValueError(f"{len(sketch.counts)} counts for {len(sketch.edges)} edges")
    return sketch
