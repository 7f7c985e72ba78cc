"""How far inputs, predictions and labels of served rows are from what the champion saw in training.

Shape suffixes: B bins, N rows, K numbers of a prediction (absent where a row has one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from include.drift.reference import MISSING, NumericSketch, as_float, category_counts
from include.drift.statistics import jensen_shannon_divergence, kolmogorov_smirnov, population_stability_index
from include.tasks.outputs import as_columns

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from include.drift.reference import CategoricalSketch, Reference
    from include.spec import DriftSpec

NUM_PSI_BINS = 10
MIN_CATEGORY_FRAC = 0.01
"""Rarer categories are counted together: each alone would be noise."""


@dataclass(frozen=True, kw_only=True)
class InputDrift:
    """Distance of one input from the champion's training data.

    Args:
        name: The input.
        kind: Its kind.
        psi: Population stability index in nats, of rows that have a value; None if one side has none.
        js: Jensen-Shannon divergence in nats, over the same bins; None likewise.
        ks: Kolmogorov-Smirnov distance, for numbers; None for categories.
        missing_frac: Share of rows without a value.
        reference_missing_frac: The same in training.
    """

    name: str
    kind: Literal["categorical", "numeric"]
    psi: float | None
    js: float | None
    ks: float | None
    missing_frac: float
    reference_missing_frac: float

    def exceeds(self, limits: DriftSpec) -> bool:
        """Return whether the values moved, or went missing, further than the spec allows.

        Values that were missing in training and are there now are no drift: the first months have no history yet.
        """
        went_missing_frac = self.missing_frac - self.reference_missing_frac
        has_moved = self.psi is not None and self.psi > limits.max_input_psi
        return has_moved or went_missing_frac > limits.max_missing_increase_frac


def measure_inputs(*, served: pa.Table, reference: Reference) -> tuple[InputDrift, ...]:
    """Return the drift of every input of served rows, of which there must be at least one."""
    numeric = (
        _numeric(name=name, values_N=as_float(served, name), sketch=sketch)
        for name, sketch in reference.numeric.items()
    )
    categorical = (
        _categorical(name=name, counts=category_counts(served, name), sketch=sketch)
        for name, sketch in reference.categorical.items()
    )
    return (*categorical, *numeric)


def prediction_psi(*, predicted_NK: np.ndarray, reference: Reference) -> float:
    """Return the population stability index of predictions against the champion's on its training data, in nats.

    Of several classes it is the largest of a class' probability.
    """
    found = []
    for sketch, output_N in zip(reference.outputs, as_columns(predicted_NK).T, strict=True):
        reference_B, current_B = _merged(sketch, output_N)
        found.append(population_stability_index(reference_B=reference_B, current_B=current_B))
    return max(found)


def label_psi(*, labelled: pa.Table, reference: Reference) -> float | None:
    """Return the population stability index of known labels against the training data's; None if one side has none."""
    if reference.label is None or not labelled.num_rows:
        return None
    if isinstance(reference.label, NumericSketch):
        return _numeric(name="label", values_N=as_float(labelled, "label"), sketch=reference.label).psi
    return _categorical(name="label", counts=category_counts(labelled, "label"), sketch=reference.label).psi


def _numeric(*, name: str, values_N: np.ndarray, sketch: NumericSketch) -> InputDrift:
    import numpy as np

    num_missing, num_reference = int(np.isnan(values_N).sum()), sum(sketch.counts)
    psi = js = ks = None
    if num_missing < len(values_N) and num_reference:
        reference_B, current_B = _merged(sketch, values_N)
        psi = population_stability_index(reference_B=reference_B, current_B=current_B)
        js = jensen_shannon_divergence(reference_B=reference_B, current_B=current_B)
        ks = kolmogorov_smirnov(reference_B=sketch.counts, current_B=sketch.count(values_N))
    return InputDrift(
        name=name,
        kind="numeric",
        psi=psi,
        js=js,
        ks=ks,
        missing_frac=num_missing / len(values_N),
        reference_missing_frac=sketch.num_missing / (sketch.num_missing + num_reference),
    )


def _merged(sketch: NumericSketch, values_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return reference and current counts over about ten bins that held equal shares in training."""
    import numpy as np

    fine_B = np.asarray(sketch.counts, dtype=np.float64)
    middle_B = (np.cumsum(fine_B) - fine_B / 2) / fine_B.sum()
    group_B = np.minimum((middle_B * NUM_PSI_BINS).astype(np.int64), NUM_PSI_BINS - 1)
    reference_B = np.bincount(group_B, weights=fine_B, minlength=NUM_PSI_BINS)
    current_B = np.bincount(group_B, weights=sketch.count(values_N), minlength=NUM_PSI_BINS)
    used_B = (reference_B > 0) | (current_B > 0)
    return reference_B[used_B], current_B[used_B]


def _categorical(*, name: str, counts: dict[str, int], sketch: CategoricalSketch) -> InputDrift:
    num_missing, num_rows = counts.pop(MISSING, 0), sum(counts.values())
    num_reference = sum(sketch.counts.values()) + sketch.other
    psi = js = None
    if num_rows and num_reference:
        kept = [key for key, count in sketch.counts.items() if count >= MIN_CATEGORY_FRAC * num_reference]
        reference_B = [sketch.counts[key] for key in kept]
        current_B = [counts.get(key, 0) for key in kept]
        reference_B.append(num_reference - sum(reference_B))
        current_B.append(num_rows - sum(current_B))
        psi = population_stability_index(reference_B=reference_B, current_B=current_B)
        js = jensen_shannon_divergence(reference_B=reference_B, current_B=current_B)
    return InputDrift(
        name=name,
        kind="categorical",
        psi=psi,
        js=js,
        ks=None,
        missing_frac=num_missing / (num_missing + num_rows),
        reference_missing_frac=sketch.num_missing / (sketch.num_missing + num_reference),
    )
