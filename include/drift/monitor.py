"""One partition's served predictions measured against the champion and against what happened.

Shape suffix: N rows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from include.drift.inputs import InputDrift, measure_inputs, score_psi
from include.drift.recalibration import Gain, forward_gain
from include.drift.reference import as_float
from include.drift.served import SHADOW, join_labels
from include.errors import InconclusiveError
from include.lake.tables import write_partition
from include.training.metrics import auc, expected_calibration_error, log_loss

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from include.drift.champion import Champion
    from include.lake.storage import Storage
    from include.lake.tables import Commit
    from include.spec import ModelSpec

TABLE = "performance"
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Performance:
    """One version's predictions of one partition. Metrics are None without labels, AUC also with only one outcome."""

    model_version: str
    num_predictions: int
    num_shadow: int
    num_labelled: int
    mean_score: float
    label_frac: float | None = None
    log_loss: float | None = None
    base_rate_log_loss: float | None = None
    auc: float | None = None
    expected_calibration_error: float | None = None

    @property
    def label_coverage_frac(self) -> float:
        """Share of the predictions whose outcome is known."""
        return self.num_labelled / self.num_predictions


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one partition's predictions say; None or empty means: could not be measured.

    Args:
        partition: The partition.
        champion_version: The version that drift and gain refer to; None without a champion.
        versions: Each version that predicted.
        inputs: Drift of each input that was served; empty without a champion or without served rows.
        prediction_psi: Drift of the champion's scores, nats.
        gain: What recalibrating the champion's scores would win.
        gain_unknown: Why `gain` is None.
    """

    partition: str
    champion_version: str | None
    versions: tuple[Performance, ...] = ()
    inputs: tuple[InputDrift, ...] = ()
    prediction_psi: float | None = None
    gain: Gain | None = None
    gain_unknown: str | None = None

    @property
    def champion(self) -> Performance | None:
        """The champion's own predictions; None if it made none."""
        return next((found for found in self.versions if found.model_version == self.champion_version), None)


def measure_partition(*, spec: ModelSpec, storage: Storage, partition: str, champion: Champion | None) -> Measurement:
    """Join a partition's predictions to their labels, measure them, and publish one row a version to `performance`.

    Without predictions nothing is written: an absence of evidence is no measurement.

    Args:
        spec: The model.
        storage: Where its tables and its prediction log are; the log must have been flushed.
        partition: Its key.
        champion: The version that serves now, if any.

    Raises:
        CorruptArtifactError: A file of the prediction log cannot be read.
        NotFoundError: The partition's tables were never written.
    """
    joined = join_labels(spec=spec, storage=storage, partition=partition)
    measurement = measure(joined=joined, partition=partition, champion=champion)
    if measurement.versions:
        write_performance(spec=spec, storage=storage, measurement=measurement, champion=champion)
    return measurement


def measure(*, joined: pa.Table, partition: str, champion: Champion | None) -> Measurement:
    """Return what the rows of `join_labels` say about each version and about the champion."""
    import pyarrow.compute as pc

    base_rate_frac = champion.reference.label_frac if champion else None
    versions = tuple(
        _performance(joined.filter(pc.equal(joined["model_version"], version)), base_rate_frac=base_rate_frac)
        for version in sorted(pc.unique(joined["model_version"]).to_pylist())
    )
    if champion is None:
        return Measurement(partition=partition, champion_version=None, versions=versions)
    served = joined.filter(pc.not_equal(joined["role"], SHADOW))
    own = joined.filter(pc.equal(joined["model_version"], champion.version))
    gain, gain_unknown = _gain(own)
    return Measurement(
        partition=partition,
        champion_version=champion.version,
        versions=versions,
        inputs=measure_inputs(served=served, reference=champion.reference) if served.num_rows else (),
        prediction_psi=_prediction_psi(own, champion=champion),
        gain=gain,
        gain_unknown=gain_unknown,
    )


def write_performance(
    *, spec: ModelSpec, storage: Storage, measurement: Measurement, champion: Champion | None
) -> Commit:
    """Publish a measurement as the partition's rows of `performance`, one a version; equal rows make no commit."""
    import pyarrow as pa

    schema = performance_schema()
    rows = [_row(measurement, performance, champion=champion) for performance in measurement.versions]
    return write_partition(
        uri=storage.table(spec.name, TABLE),
        table=pa.Table.from_pylist(rows, schema=schema),
        partition=measurement.partition,
        storage_options=storage.options,
        metadata={"source": "predictions joined to labels"},
    )


def performance_schema() -> pa.Schema:
    """Return the columns of `performance`; what refers to the champion is null in other versions' rows."""
    import pyarrow as pa

    counts = ("num_predictions", "num_shadow", "num_labelled")
    metrics = ("label_coverage_frac", "mean_score", "label_frac", "log_loss", "base_rate_log_loss", "auc")
    champions = ("validation_log_loss", "prediction_psi", "max_input_psi", "expected_gain", "expected_gain_error")
    return pa.schema(
        [
            ("partition", pa.string()),
            ("model_version", pa.string()),
            ("is_champion", pa.bool_()),
            *((name, pa.int64()) for name in counts),
            *((name, pa.float64()) for name in (*metrics, "expected_calibration_error", *champions)),
            ("inputs_json", pa.string()),
        ]
    )


def _row(measurement: Measurement, performance: Performance, *, champion: Champion | None) -> dict[str, Any]:
    row: dict[str, Any] = asdict(performance) | {
        "partition": measurement.partition,
        "label_coverage_frac": performance.label_coverage_frac,
        "is_champion": performance.model_version == measurement.champion_version,
    }
    if champion is not None and row["is_champion"]:
        gain = measurement.gain
        row |= {
            "validation_log_loss": champion.validation_log_loss,
            "prediction_psi": measurement.prediction_psi,
            "max_input_psi": max((i.psi for i in measurement.inputs if i.psi is not None), default=None),
            "expected_gain": gain.nats if gain else None,
            "expected_gain_error": gain.standard_error_nats if gain else None,
            "inputs_json": json.dumps([asdict(found) for found in measurement.inputs]),
        }
    return row


def _performance(rows: pa.Table, *, base_rate_frac: float | None) -> Performance:
    import numpy as np
    import pyarrow.compute as pc

    known = _labelled(rows)
    found: dict[str, Any] = {
        "model_version": rows["model_version"][0].as_py(),
        "num_predictions": rows.num_rows,
        "num_shadow": int(pc.sum(pc.equal(rows["role"], SHADOW)).as_py()),
        "num_labelled": known.num_rows,
        "mean_score": float(np.mean(as_float(rows, "probability"))),
    }
    if known.num_rows == 0:
        return Performance(**found)
    label_N, score_N = as_float(known, "label"), as_float(known, "probability")
    if base_rate_frac is not None:
        found["base_rate_log_loss"] = log_loss(label_B=label_N, probability_B=np.full(len(label_N), base_rate_frac))
    return Performance(
        **found,
        label_frac=float(label_N.mean()),
        log_loss=log_loss(label_B=label_N, probability_B=score_N),
        auc=auc(label_B=label_N, probability_B=score_N),
        expected_calibration_error=expected_calibration_error(label_B=label_N, probability_B=score_N),
    )


def _prediction_psi(own: pa.Table, *, champion: Champion) -> float | None:
    if own.num_rows == 0:
        return None
    return score_psi(score_N=as_float(own, "probability"), reference=champion.reference)


def _gain(own: pa.Table) -> tuple[Gain | None, str | None]:
    known = _labelled(own)
    try:
        gain = forward_gain(
            label_N=as_float(known, "label"), probability_N=as_float(known, "probability"), day_N=_days(known)
        )
    except InconclusiveError as error:
        return None, str(error)
    return gain, None


def _labelled(rows: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    return rows.filter(pc.is_valid(rows["label"]))


def _days(rows: pa.Table) -> np.ndarray:
    import pyarrow as pa

    seconds = rows["event_at"].cast(pa.timestamp("s", tz="UTC"), safe=False).cast(pa.int64()).to_numpy()
    return seconds // _SECONDS_PER_DAY
