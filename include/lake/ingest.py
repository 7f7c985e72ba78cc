"""A landed partition becomes typed rows in the staged tables; published tables are left to validation."""

from __future__ import annotations

import hashlib
from functools import reduce
from typing import TYPE_CHECKING

from include.errors import SchemaError
from include.lake.csv_reader import read_csv
from include.lake.landing import read_landed
from include.lake.tables import Commit, write_partition
from include.partitions import calendar_parts

if TYPE_CHECKING:
    import pyarrow as pa

    from include.lake.storage import Storage
    from include.spec import ModelSpec, TableSpec


def staged(table: str) -> str:
    """Return the name of the table that holds a source table's rows before they are validated."""
    return f"staged_{table}"


def ingest_partition(*, spec: ModelSpec, storage: Storage, partition: str, run_id: str = "") -> dict[str, Commit]:
    """Write a landed partition's files into the staged tables, and return each source table's commit.

    Every file is read and checked before the first table is written. Equal content makes no commit. Killed between two
    tables, a second call writes the others.

    Args:
        spec: The model.
        storage: Where it was landed and where the tables are.
        partition: Which partition.
        run_id: Dag run to record as the writer.

    Raises:
        BadInputError: The marker or a file is missing.
        SchemaError: A file is not what the spec declares, or holds rows of another partition.
    """
    tables = spec.source.tables
    contents = read_landed(
        storage=storage,
        model=spec.name,
        partition=partition,
        marker=spec.source.marker,
        names=tuple(table.file for table in tables.values()),
    )
    folder = storage.landing(spec.name, partition)
    rows: dict[str, pa.Table] = {}
    for name, table in tables.items():
        file = f"{folder}/{table.file}"
        rows[name] = read_csv(contents[table.file], file=file, table=table)
        _check_partition(rows[name], file=file, table=table, partition=partition)
    return {
        name: write_partition(
            uri=storage.table(spec.name, staged(name)),
            table=rows[name],
            partition=partition,
            storage_options=storage.options,
            metadata={
                "source": f"{folder}/{table.file}",
                "source_sha256": hashlib.sha256(contents[table.file]).hexdigest(),
                "dag_run_id": run_id,
            },
        )
        for name, table in tables.items()
    }


def _check_partition(rows: pa.Table, *, file: str, table: TableSpec, partition: str) -> None:
    import pyarrow.compute as pc

    if not table.partition_columns:
        return
    parts = zip(table.partition_columns, calendar_parts(partition), strict=True)
    right = reduce(pc.and_, (pc.equal(rows[column], part) for column, part in parts))
    wrong = pc.indices_nonzero(pc.invert(pc.fill_null(right, fill_value=False))).to_pylist()
    if wrong:
        first = rows.select(table.partition_columns).slice(wrong[0], 1).to_pylist()[0]
        raise SchemaError(
            f"file {file!r} must hold rows of {partition} alone; got {len(wrong)} of {rows.num_rows} rows of other "
            f"partitions, the first on line {wrong[0] + 2}: {first}. Nothing was ingested. Land the right file, then "
            "the marker."
        )
