"""A finished, evaluated job as a model package: graphs, encoding, golden rows, card, lock, drift reference.

Shape suffixes: B rows, K classes (absent where a row has one number).
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.compression.compare import HeldOut, compare
from include.compression.gate import Compression, choose
from include.compression.graphs import open_graph, score
from include.compression.quantize import quantize_int8
from include.drift.reference import make_reference
from include.errors import CorruptArtifactError, NotFoundError, TrainingError
from include.lake.files import read_bytes
from include.registry import package as names
from include.registry.card import render_card
from include.registry.package import Package, read_package, write_package
from include.training.evaluate import measure, read_evaluation
from include.training.result import GRAPH_FILE, Result, read_result
from include.training.rows import Rows, columns_of, load_rows
from include.training.snapshot import read_snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import onnxruntime

    from include.lake.storage import Storage
    from include.training.job import Job

NUM_GOLDEN_ROWS = 20
GOLDEN_TOLERANCE = 1e-3
"""Difference of two answers to a golden row, in the task's unit: 1 for probabilities, else the predictions' spread."""
PACKAGE_FOLDER = "package"


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A package and what `metrics.json` in it says."""

    package: Package
    metrics: Mapping[str, Any]


def assemble_package(job: Job, *, storage: Storage) -> Assembled:
    """Compress a job's graph, choose what serves, and write its package; one that is complete is kept.

    Raises:
        TrainingError: The job is not finished or not evaluated.
        CorruptArtifactError: Snapshot or graph are damaged.
    """
    uri = f"{job.output_uri}/{PACKAGE_FOLDER}"
    with contextlib.suppress(NotFoundError, CorruptArtifactError):  # never finished, or damaged: write it again
        return _assembled(read_package(uri, storage=storage))
    result = read_result(job, storage=storage)
    if result is None:
        raise TrainingError(
            f"job {job.key} must have a whole result.json before it is packed; got none. Nothing was written. Run the "
            "training task again."
        )
    rows = load_rows(job, storage=storage)
    fp32 = read_bytes(f"{job.output_uri}/{GRAPH_FILE}", storage=storage)
    graphs, compression = _compress(fp32, rows, job=job)
    served = open_graph(graphs[names.SERVED_GRAPH])
    served_BK = score(served, rows.categorical_BC, rows.numeric_BN)
    metrics = _metrics(job, rows, served_BK, compression=compression, result=result, storage=storage)
    lock = _lock(job, result, storage=storage)
    documents = {
        names.GOLDEN: _golden(rows, served, unit=rows.task.unit(served_BK)),
        names.METRICS: metrics,
        names.LOCK: lock,
        names.DRIFT_REFERENCE: make_reference(table=rows.table, predicted_BK=served_BK, spec=job.spec),
    }
    contents = {
        **graphs,
        names.ENCODING: rows.encoding.to_json().encode(),
        names.CARD: render_card(spec=job.spec, lock=lock, metrics=metrics).encode(),
        **{name: json.dumps(document, indent=1).encode() for name, document in documents.items()},
    }
    package = write_package(uri, model=job.spec.name, job_key=job.key, contents=contents, storage=storage)
    return _assembled(package)


def _assembled(package: Package) -> Assembled:
    return Assembled(package=package, metrics=package.json(names.METRICS))


def _compress(fp32: bytes, rows: Rows, *, job: Job) -> tuple[dict[str, bytes], Compression]:
    """Return the package's graphs by file name, and why the served one is which."""
    spec = job.spec.compression
    if spec.method == "none":
        return {names.SERVED_GRAPH: fp32, names.FP32_GRAPH: fp32}, choose(None, spec=spec)
    int8 = quantize_int8(fp32)
    held_out = slice(rows.num_train, None)
    measured_on = HeldOut(
        categorical_BC=rows.categorical_BC[held_out],
        numeric_BN=rows.numeric_BN[held_out],
        label_B=rows.label_B[held_out],
    )
    comparison = compare(fp32=fp32, int8=int8, rows=measured_on, task=rows.task, tolerance=spec.agreement_tolerance)
    compression = choose(comparison, spec=spec)
    served = int8 if compression.serves == "int8" else fp32
    return {names.SERVED_GRAPH: served, names.FP32_GRAPH: fp32, names.INT8_GRAPH: int8}, compression


def _golden(rows: Rows, served: onnxruntime.InferenceSession, *, unit: float) -> dict[str, Any]:
    """Return rows spread over the held-out ones, with the predictions that any server must answer.

    They are predicted in one request, as the server will: int8 takes the scale of its activations from all its rows.
    """
    import numpy as np

    chosen = np.linspace(rows.num_train, len(rows.label_B) - 1, NUM_GOLDEN_ROWS).astype(int)
    table = rows.table.take(chosen)
    columns = columns_of(table, rows.encoding)
    return {
        "columns": {name: [_plain(value) for value in values] for name, values in columns.items()},
        rows.task.output: score(served, rows.categorical_BC[chosen], rows.numeric_BN[chosen]).tolist(),
        "tolerance": GOLDEN_TOLERANCE * unit,
    }


def _plain(value: Any) -> Any:
    """Return a number without NaN, which JSON does not have, or a text as it is."""
    if value is None or isinstance(value, str):
        return value
    return float(value) if value == value else None  # noqa: PLR0124 - NaN alone differs from itself


def _metrics(
    job: Job, rows: Rows, served_BK: np.ndarray, *, compression: Compression, result: Result, storage: Storage
) -> dict[str, Any]:
    held_out = slice(rows.num_train, None)
    evaluation = read_evaluation(job, storage=storage)
    return {
        **evaluation,
        "validation": measure(task=rows.task, label_B=rows.label_B[held_out], predicted_BK=served_BK[held_out]),
        "compression": compression.to_dict(),
        "training": {
            "epochs": [epoch.model_dump() for epoch in result.epochs],
            "best_epoch": result.best_epoch,
            "num_train_rows": result.num_train_rows,
            "seconds": result.seconds,
            "device": result.device,
            "finished_at_ms": result.finished_at_ms,
        },
    }


def _lock(job: Job, result: Result, *, storage: Storage) -> dict[str, Any]:
    """Return everything needed to make the version again."""
    snapshot = read_snapshot(job.snapshot.uri, storage=storage)
    return {
        "model": job.spec.name,
        "job_key": job.key,
        "job_hash": job.hash,
        "commit": job.commit,
        "seed": job.seed,
        "params": job.params,
        "training": job.training.model_dump(mode="json"),
        "snapshot": job.snapshot.model_dump(mode="json") | {"versions": dict(snapshot.versions)},
        "packages": result.packages,
        "machine": result.machine,
        "job": job.model_dump(mode="json"),
    }
