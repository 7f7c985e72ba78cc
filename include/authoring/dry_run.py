"""A model taken through every stage on a few rows, by the code that the Dags run, in a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from include.errors import BadInputError
from include.lake.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pyarrow as pa
    import torch

    from include.spec import ModelSpec
    from include.training.rows import Rows

_COMMIT = "dry-run"
_VALIDATION_FRAC = 0.4
"""Enough of a few rows to validate on."""

_TRACED_ROWS = 64

MIN_LABELLED = 130
"""Fewer labelled rows cannot be split into 50 to validate and 50 to train."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What came of the rows.

    Args:
        partitions: Which were taken.
        num_rows: Rows of the first source table that were ingested.
        num_quarantined: Rows of it that failed an expectation.
        failures: Expectations that refuse a partition; nothing after them was tried.
        num_examples: Examples that the SQL made of the good rows.
        num_missing: Input -> examples without a value.
        num_labelled: Examples with a label.
        num_labels: Different labels.
        loss: On the held-out rows after one epoch; None if there were too few rows to train.
        graph_bytes: Size of the exported graph; None likewise.
    """

    partitions: tuple[str, ...]
    num_rows: int = 0
    num_quarantined: int = 0
    failures: tuple[str, ...] = ()
    num_examples: int = 0
    num_missing: Mapping[str, int] = field(default_factory=dict)
    num_labelled: int = 0
    num_labels: int = 0
    loss: float | None = None
    graph_bytes: int | None = None


def dry_run(*, spec: ModelSpec, sample: Path, folder: Path) -> DryRun:
    """Ingest, validate, publish, build features, train one epoch and export.

    Args:
        spec: The model.
        sample: Folder with a folder for each partition, in which its files lie as they are landed.
        folder: Empty folder for tables, snapshot and job.

    Raises:
        BadInputError: The sample has no partition.
        TradewindError: What the stage that cannot go on raises.
    """
    storage = Storage(root=str(folder))
    partitions = _land(spec, sample=sample, storage=storage)
    published = _publish(spec, partitions=partitions, storage=storage)
    if published.failures:
        return published
    return _learn(spec, published=published, storage=storage)


def _land(spec: ModelSpec, *, sample: Path, storage: Storage) -> tuple[str, ...]:
    from include.lake.landing import land_files

    partitions = tuple(sorted(path.name for path in sample.iterdir() if path.is_dir())) if sample.is_dir() else ()
    if not partitions:
        raise BadInputError(
            f"a sample must be a folder with a folder for each partition; got none in {sample}. Nothing was tried. "
            "Name the folder in which the partitions lie."
        )
    names = [table.file for table in spec.source.tables.values()]
    for key in partitions:
        files = {name: (sample / key / name).read_bytes() for name in names if (sample / key / name).is_file()}
        land_files(storage=storage, model=spec.name, partition=key, marker=spec.source.marker, files=files)
    return partitions


def _publish(spec: ModelSpec, *, partitions: tuple[str, ...], storage: Storage) -> DryRun:
    from include.lake.ingest import ingest_partition
    from include.validation.partition import check_partition, publish_partition

    first = next(iter(spec.source.tables))
    num_rows, num_bad, failures = 0, 0, []
    for key in partitions:
        ingest_partition(spec=spec, storage=storage, partition=key)
        checked = check_partition(spec=spec, storage=storage, partition=key)
        failures += [f"{key}: {failure}" for report in checked.reports.values() for failure in report.failures]
        num_rows += checked.rows[first].num_rows
        num_bad += len(checked.reports[first].bad_rows)
        if not failures:
            publish_partition(spec=spec, storage=storage, checked=checked)
    return DryRun(partitions=partitions, num_rows=num_rows, num_quarantined=num_bad, failures=tuple(failures))


def _learn(spec: ModelSpec, *, published: DryRun, storage: Storage) -> DryRun:
    """Build features and examples, and train on them if there are enough."""
    import pyarrow.compute as pc

    from include.features.build import build_features
    from include.features.examples import load_examples

    for key in published.partitions:
        build_features(spec=spec, storage=storage, partition=key, published_at=datetime.now(UTC))
    examples = load_examples(spec=spec, storage=storage, partitions=published.partitions)
    labels = examples["label"].drop_null()
    found = replace(
        published,
        num_examples=examples.num_rows,
        num_missing={f.name: examples[f.name].null_count for f in spec.features.request},
        num_labelled=len(labels),
        num_labels=len(pc.unique(labels)),
    )
    if found.num_labelled < MIN_LABELLED or found.num_labels <= 1:
        return found
    loss, graph = _train(spec, partitions=_labelled_partitions(examples), storage=storage)
    return replace(found, loss=loss, graph_bytes=len(graph))


def _labelled_partitions(examples: pa.Table) -> tuple[str, ...]:
    import pyarrow.compute as pc

    return tuple(sorted(pc.unique(examples.filter(pc.is_valid(examples["label"]))["partition"]).to_pylist()))


def _train(spec: ModelSpec, *, partitions: tuple[str, ...], storage: Storage) -> tuple[float, bytes]:
    from include.training.checkpoints import Checkpoints
    from include.training.fit import fit
    from include.training.job import make_job
    from include.training.rows import load_rows
    from include.training.snapshot import build_snapshot

    training = spec.training.model_copy(update={"validation_frac": _VALIDATION_FRAC})
    spec = spec.model_copy(update={"training": training})
    snapshot = build_snapshot(spec=spec, storage=storage, window=partitions).ref
    job = make_job(
        spec=spec, snapshot=snapshot, commit=_COMMIT, storage=storage, params={"max_epochs": 1, "batch_size": 32}
    )
    rows = load_rows(job, storage=storage)
    checkpoints = Checkpoints(uri=job.checkpoint_uri, job_hash=job.hash, storage=storage)
    fitted = fit(job, rows, checkpoints=checkpoints, should_stop=lambda: False, say=lambda _line: None)
    return fitted.epochs[0].validation_loss, _export(spec, rows=rows, network=fitted.network)


def _export(spec: ModelSpec, *, rows: Rows, network: torch.nn.Module) -> bytes:
    from include.tasks import task_of
    from include.training.export import export_onnx

    newest = slice(-_TRACED_ROWS, None)
    return export_onnx(
        network,
        task=task_of(spec),
        categorical_BC=rows.categorical_BC[newest],
        numeric_BN=rows.numeric_BN[newest],
    )
