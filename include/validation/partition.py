"""A staged partition is checked, its bad rows are set aside, and its good rows are published."""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import DataQualityError, NotFoundError
from include.lake.files import write_bytes
from include.lake.ingest import staged
from include.lake.tables import PARTITION_COLUMN, Commit, partition_commit, read_table, write_partition
from include.validation.expectation_run import DATA_DOCS, TableReport, run_expectations, silence_great_expectations

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from include.lake.storage import Storage
    from include.spec import ModelSpec

QUARANTINE = "quarantine"
_SHOWN_FAILURES = 5
_TUTORIAL = ".gif"  # animations of 3.4 MB in each copy of the Data Docs, for pages that are not built


@dataclass(frozen=True, kw_only=True)
class CheckedPartition:
    """A staged partition and what its expectations say.

    Args:
        partition: Its key.
        commits: The staged commit of each table that was checked.
        rows: Its rows by table.
        reports: The verdict by table.
        data_docs: URI of the Data Docs' first page.
    """

    partition: str
    commits: Mapping[str, Commit]
    rows: Mapping[str, pa.Table]
    reports: Mapping[str, TableReport]
    data_docs: str


@dataclass(frozen=True, kw_only=True)
class PublishedPartition:
    """The commits that downstream stages read.

    Args:
        tables: The published commit of each table.
        quarantine: The commit of the quarantined rows.
    """

    tables: Mapping[str, Commit]
    quarantine: Commit


def check_partition(*, spec: ModelSpec, storage: Storage, partition: str) -> CheckedPartition:
    """Run the model's expectations over the newest staged rows of a partition and keep the Data Docs.

    Raises:
        NotFoundError: The partition was never ingested.
        InconclusiveError: An expectation could not be evaluated.
    """
    commits, rows = {}, {}
    for name in spec.source.tables:
        uri = storage.table(spec.name, staged(name))
        commits[name] = _staged_commit(uri=uri, partition=partition, storage=storage)
        rows[name] = read_table(
            uri=uri, storage_options=storage.options, version=commits[name].version, partitions=[partition]
        )
    silence_great_expectations()
    module = importlib.import_module(f"include.models.{spec.name}.expectations")
    suites = {name: module.expectations(table=name, partition=partition, source=spec.source) for name in rows}
    key = hashlib.sha256("".join(commit.checksum for commit in commits.values()).encode()).hexdigest()[:12]
    folder = f"{storage.report(spec.name, partition)}/validation/{key}"
    with tempfile.TemporaryDirectory(prefix="tradewind-gx-") as aside:
        reports = run_expectations(tables=rows, suites=suites, folder=Path(aside))
        _keep(Path(aside), folder=folder, storage=storage)
    data_docs = f"{folder}/{DATA_DOCS}"
    return CheckedPartition(
        partition=partition,
        commits=commits,
        rows=rows,
        reports=reports,
        data_docs=Path(data_docs).as_uri() if storage.is_local else data_docs,
    )


def publish_partition(
    *, spec: ModelSpec, storage: Storage, checked: CheckedPartition, run_id: str = ""
) -> PublishedPartition:
    """Write the bad rows into the quarantine, then the good rows into the published tables, each in one commit.

    Equal content makes no commit. Killed between two tables, a second call writes the others.

    Raises:
        DataQualityError: A critical expectation failed; nothing was written.
    """
    failures = [failure for report in checked.reports.values() for failure in report.failures]
    if failures:
        raise DataQualityError(
            f"partition {checked.partition!r} of {spec.name!r} must meet its critical expectations; got "
            f"{len(failures)} that fail: {'; '.join(failures[:_SHOWN_FAILURES])}. The published tables are unchanged. "
            f"Read the Data Docs at {checked.data_docs}, then land the partition again."
        )
    quarantine = write_partition(
        uri=storage.table(spec.name, QUARANTINE),
        table=_quarantined(spec=spec, checked=checked),
        partition=checked.partition,
        storage_options=storage.options,
        metadata={"source": checked.data_docs, "dag_run_id": run_id},
    )
    tables = {
        name: write_partition(
            uri=storage.table(spec.name, name),
            table=_good(checked.rows[name], checked.reports[name]),
            partition=checked.partition,
            storage_options=storage.options,
            metadata={
                "source": f"{storage.table(spec.name, staged(name))}@v{checked.commits[name].version}",
                "dag_run_id": run_id,
            },
        )
        for name in spec.source.tables
    }
    return PublishedPartition(tables=tables, quarantine=quarantine)


def _staged_commit(*, uri: str, partition: str, storage: Storage) -> Commit:
    commit = partition_commit(uri=uri, partition=partition, storage_options=storage.options)
    if commit is None:
        raise NotFoundError(
            f"table {uri!r} must hold partition {partition!r}; got none. Nothing was published. Run the ingest "
            "task first."
        )
    return commit


def _good(rows: pa.Table, report: TableReport) -> pa.Table:
    import numpy as np

    keep = np.ones(rows.num_rows, dtype=bool)
    keep[list(report.bad_rows)] = False
    return rows.filter(keep)


def _quarantined(*, spec: ModelSpec, checked: CheckedPartition) -> pa.Table:
    import pyarrow as pa

    found: list[dict[str, str]] = []
    for name, report in checked.reports.items():
        key = spec.source.tables[name].primary_key
        bad = checked.rows[name].drop_columns([PARTITION_COLUMN]).take(pa.array(report.bad_rows, pa.int64()))
        found += [
            {
                PARTITION_COLUMN: checked.partition,
                "source_table": name,
                "row_key": "|".join(str(_plain(row[column])) for column in key),
                "reason": "must hold: " + "; ".join(reasons),
                "row_json": json.dumps(row, default=_plain),
            }
            for row, reasons in zip(bad.to_pylist(), report.bad_rows.values(), strict=True)
        ]
    columns = (PARTITION_COLUMN, "source_table", "row_key", "reason", "row_json")
    return pa.Table.from_pylist(found, schema=pa.schema([(column, pa.string()) for column in columns]))


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | datetime) else value


def _keep(source: Path, *, folder: str, storage: Storage) -> None:
    """Copy the context with its Data Docs into the storage; the page that links all others is written last."""
    files = (path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    files = (name for name in files if not name.endswith(_TUTORIAL))
    for name in sorted(files, key=DATA_DOCS.__eq__):
        write_bytes(f"{folder}/{name}", (source / name).read_bytes(), storage=storage)
