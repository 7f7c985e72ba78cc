"""One partition's served predictions measured against the champion and against what happened.

Shape suffixes: N rows, K classes (absent where a row has one number).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from include.drift.inputs import InputDrift, label_psi, measure_inputs, prediction_psi
from include.drift.recalibration import Gain, forward_gain
from include.drift.served import SHADOW, join_labels
from include.errors import InconclusiveError, SchemaError
from include.features.definitions import measured_window
from include.lake.tables import read_table, table_exists, write_partition
from include.tasks import task_of
from include.tasks.outputs import repeat, to_numpy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa

    from include.drift.champion import Champion
    from include.lake.storage import Storage
    from include.lake.tables import Commit
    from include.spec import ModelSpec
    from include.tasks import Task

TABLE = "performance"
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Performance:
    """One version's predictions of one partition. Losses are None, and metrics empty, without labels.

    Args:
        model_version: The version.
        num_predictions: Examples that it predicted.
        num_shadow: Those of them that no caller saw.
        num_labelled: Those whose label is known.
        mean_prediction: Of all of them; None where a prediction is several numbers.
        loss: Mean loss of the labelled ones.
        baseline_loss: Mean loss of the champion's best constant answer on them.
        metrics: The task's own metrics of them; None where one cannot be measured.
    """

    model_version: str
    num_predictions: int
    num_shadow: int
    num_labelled: int
    mean_prediction: float | None
    loss: float | None = None
    baseline_loss: float | None = None
    metrics: Mapping[str, float | int | None] = field(default_factory=dict)

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
        prediction_psi: Drift of the champion's predictions, nats.
        label_psi: Drift of the labels of what was served, nats.
        gain: What recalibrating the champion's predictions would win.
        gain_unknown: Why `gain` is None.
    """

    partition: str
    champion_version: str | None
    versions: tuple[Performance, ...] = ()
    inputs: tuple[InputDrift, ...] = ()
    prediction_psi: float | None = None
    label_psi: float | None = None
    gain: Gain | None = None
    gain_unknown: str | None = None

    @property
    def champion(self) -> Performance | None:
        """The champion's own predictions; None if it made none."""
        return next((found for found in self.versions if found.model_version == self.champion_version), None)


def measure_partition(*, spec: ModelSpec, storage: Storage, partition: str, champion: Champion | None) -> Measurement:
    """Join predictions to the labels that are due, measure them, and publish one row a version to `performance`.

    Measured are the newest partitions whose labels the partition completes (`measured_window`). Without predictions
    nothing is written: an absence of evidence is no measurement.

    Args:
        spec: The model.
        storage: Where its tables and its prediction log are; the log must have been flushed.
        partition: Its key.
        champion: The version that serves now, if any.

    Raises:
        CorruptArtifactError: A file of the prediction log cannot be read.
        NotFoundError: The partition's tables were never written.
        SchemaError: A label is none of the model's task.
    """
    joined = join_labels(spec=spec, storage=storage, partitions=measured_window(spec, partition))
    measurement = measure(spec=spec, joined=joined, partition=partition, champion=champion)
    if measurement.versions:
        write_performance(spec=spec, storage=storage, measurement=measurement, champion=champion)
    return measurement


def measure(*, spec: ModelSpec, joined: pa.Table, partition: str, champion: Champion | None) -> Measurement:
    """Return what the rows of `join_labels` say about each version and about the champion.

    Raises:
        SchemaError: A label is none of the model's task.
    """
    import pyarrow.compute as pc

    task = task_of(spec)
    _require_labels(joined, spec=spec, task=task)
    versions = tuple(
        _performance(joined.filter(pc.equal(joined["model_version"], version)), task=task, champion=champion)
        for version in sorted(pc.unique(joined["model_version"]).to_pylist())
    )
    if champion is None:
        return Measurement(partition=partition, champion_version=None, versions=versions)
    served = joined.filter(pc.not_equal(joined["role"], SHADOW))
    own = joined.filter(pc.equal(joined["model_version"], champion.version))
    gain, gain_unknown = _gain(own, task=task)
    return Measurement(
        partition=partition,
        champion_version=champion.version,
        versions=versions,
        inputs=measure_inputs(served=served, reference=champion.reference) if served.num_rows else (),
        prediction_psi=_prediction_psi(own, task=task, champion=champion),
        label_psi=label_psi(labelled=_labelled(served), reference=champion.reference),
        gain=gain,
        gain_unknown=gain_unknown,
    )


def write_performance(
    *, spec: ModelSpec, storage: Storage, measurement: Measurement, champion: Champion | None
) -> Commit:
    """Publish a measurement as the partition's rows of `performance`, one a version; equal rows make no commit.

    Columns that an older Tradewind wrote stay in the table, null in new rows.
    """
    import pyarrow as pa

    uri, task = storage.table(spec.name, TABLE), task_of(spec)
    rows = [_row(measurement, found, task=task, champion=champion) for found in measurement.versions]
    table = pa.Table.from_pylist(rows, schema=performance_schema(spec))
    if table_exists(uri=uri, storage_options=storage.options):
        for former in read_table(uri=uri, storage_options=storage.options, partitions=("",)).schema:
            if former.name not in table.column_names:
                table = table.append_column(former, pa.nulls(table.num_rows, former.type))
    return write_partition(
        uri=uri,
        table=table,
        partition=measurement.partition,
        storage_options=storage.options,
        metadata={"source": "predictions joined to labels"},
    )


def performance_schema(spec: ModelSpec) -> pa.Schema:
    """Return the columns of `performance`; what refers to the champion is null in other versions' rows."""
    import pyarrow as pa

    counts = ("num_predictions", "num_shadow", "num_labelled")
    losses = ("label_coverage_frac", "mean_prediction", "loss", "baseline_loss")
    champions = ("validation_loss", "prediction_psi", "label_psi", "max_input_psi")
    gains = ("expected_gain", "expected_gain_error")
    return pa.schema(
        [
            ("partition", pa.string()),
            ("model_version", pa.string()),
            ("is_champion", pa.bool_()),
            ("loss_name", pa.string()),
            *((name, pa.int64()) for name in counts),
            *((name, pa.float64()) for name in (*losses, *task_of(spec).metric_names, *champions, *gains)),
            ("inputs_json", pa.string()),
        ]
    )


def _row(
    measurement: Measurement, performance: Performance, *, task: Task, champion: Champion | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        **asdict(performance),
        **performance.metrics,
        "partition": measurement.partition,
        "loss_name": task.loss_name,
        "label_coverage_frac": performance.label_coverage_frac,
        "is_champion": performance.model_version == measurement.champion_version,
    }
    if champion is not None and row["is_champion"]:
        gain = measurement.gain
        row |= {
            "validation_loss": champion.validation_loss,
            "prediction_psi": measurement.prediction_psi,
            "label_psi": measurement.label_psi,
            "max_input_psi": max((i.psi for i in measurement.inputs if i.psi is not None), default=None),
            "expected_gain": gain.mean if gain else None,
            "expected_gain_error": gain.standard_error if gain else None,
            "inputs_json": json.dumps([asdict(found) for found in measurement.inputs]),
        }
    return row


def _performance(rows: pa.Table, *, task: Task, champion: Champion | None) -> Performance:
    import pyarrow.compute as pc

    known = _labelled(rows)
    found: dict[str, Any] = {
        "model_version": rows["model_version"][0].as_py(),
        "num_predictions": rows.num_rows,
        "num_shadow": int(pc.sum(pc.equal(rows["role"], SHADOW)).as_py()),
        "num_labelled": known.num_rows,
        "mean_prediction": None if task.classes else float(to_numpy(rows[task.output], task=task).mean()),
    }
    if known.num_rows == 0:
        return Performance(**found)
    label_N, predicted_NK = task.encode(known["label"]), to_numpy(known[task.output], task=task)
    if champion is not None and champion.reference.baseline is not None:
        constant_NK = repeat(champion.reference.baseline, num_rows=len(label_N))
        found["baseline_loss"] = float(task.losses(label_N, constant_NK).mean())
    return Performance(
        **found,
        loss=float(task.losses(label_N, predicted_NK).mean()),
        metrics=task.metrics(label_N, predicted_NK),
    )


def _prediction_psi(own: pa.Table, *, task: Task, champion: Champion) -> float | None:
    if own.num_rows == 0:
        return None
    return prediction_psi(predicted_NK=to_numpy(own[task.output], task=task), reference=champion.reference)


def _gain(own: pa.Table, *, task: Task) -> tuple[Gain | None, str | None]:
    known = _labelled(own)
    try:
        gain = forward_gain(
            task=task,
            label_N=task.encode(known["label"]),
            predicted_NK=to_numpy(known[task.output], task=task),
            day_N=_days(known),
        )
    except InconclusiveError as error:
        return None, str(error)
    return gain, None


def _require_labels(joined: pa.Table, *, spec: ModelSpec, task: Task) -> None:
    problem = task.label_problem(_labelled(joined)["label"])
    if problem:
        raise SchemaError(
            f"examples of {spec.name!r} must hold {problem}. Nothing was measured. Mend EXAMPLES_SQL or the source's "
            "rows, then run this again."
        )


def _labelled(rows: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    return rows.filter(pc.is_valid(rows["label"]))


def _days(rows: pa.Table) -> np.ndarray:
    import pyarrow as pa

    seconds = rows["event_at"].cast(pa.timestamp("s", tz="UTC"), safe=False).cast(pa.int64()).to_numpy()
    return seconds // _SECONDS_PER_DAY
