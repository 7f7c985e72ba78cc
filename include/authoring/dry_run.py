"""A model taken through every stage on a few rows, by the code that the Dags run, in a folder of its own."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from include.authoring.problems import EXPECTATIONS, FEATURES, NETWORK, SPEC
from include.errors import BadInputError
from include.lake.storage import Storage
from include.validation.expectation_run import TableReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pyarrow as pa
    import torch

    from include.spec import ModelSpec
    from include.training.rows import Rows

_COMMIT = "dry-run"
_VALIDATION_FRAC = 0.4
"""Enough of a few rows to validate on."""

_BATCH_ROWS = 64
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


class StageError(Exception):
    """A stage could not go on.

    Args:
        file: The file of the model's folder that has to do with it.
    """

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.file = file


@contextmanager
def _stage(file: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise StageError(file) from error


def dry_run(*, spec: ModelSpec, sample: Path, folder: Path, is_checked: bool = True) -> DryRun:
    """Ingest, validate, publish, build features, train one epoch and export.

    Args:
        spec: The model.
        sample: Folder with a folder for each partition, in which its files lie as they are landed.
        folder: Empty folder for tables, snapshot and job.
        is_checked: Whether the expectations judge the rows; otherwise they are only evaluated.

    Raises:
        StageError: A stage cannot go on; its cause says why.
    """
    storage = Storage(root=str(folder))
    with _stage(SPEC):
        partitions = _land(spec, sample=sample, storage=storage)
    with _stage(EXPECTATIONS):
        published = _publish(spec, partitions=partitions, storage=storage, is_checked=is_checked)
    if published.failures:
        return published
    with _stage(FEATURES):
        built, examples = _build(spec, published=published, storage=storage)
    if built.num_labelled < MIN_LABELLED or built.num_labels <= 1:
        return built
    with _stage(NETWORK):
        loss, graph = _train(spec, partitions=_labelled_partitions(examples), storage=storage)
    return replace(built, loss=loss, graph_bytes=len(graph))


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


def _publish(spec: ModelSpec, *, partitions: tuple[str, ...], storage: Storage, is_checked: bool) -> DryRun:
    from include.lake.ingest import ingest_partition
    from include.validation.partition import check_partition, publish_partition

    first = next(iter(spec.source.tables))
    num_rows, num_bad, failures = 0, 0, []
    for key in partitions:
        ingest_partition(spec=spec, storage=storage, partition=key)
        checked = check_partition(spec=spec, storage=storage, partition=key)
        if not is_checked:
            nothing = {name: TableReport(bad_rows={}, failures=()) for name in checked.reports}
            checked = replace(checked, reports=nothing)
        failures += [f"{key}: {failure}" for report in checked.reports.values() for failure in report.failures]
        num_rows += checked.rows[first].num_rows
        num_bad += len(checked.reports[first].bad_rows)
        if not failures:
            publish_partition(spec=spec, storage=storage, checked=checked)
    return DryRun(partitions=partitions, num_rows=num_rows, num_quarantined=num_bad, failures=tuple(failures))


def _build(spec: ModelSpec, *, published: DryRun, storage: Storage) -> tuple[DryRun, pa.Table]:
    """Build the store features and the examples."""
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
    return found, examples


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
        spec=spec,
        snapshot=snapshot,
        commit=_COMMIT,
        storage=storage,
        params={"max_epochs": 1, "batch_size": _BATCH_ROWS},
    )
    rows = load_rows(job, storage=storage)
    checkpoints = Checkpoints.of_job(job, storage=storage)
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
