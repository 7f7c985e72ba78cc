"""Rows made up from model.yaml alone, for a model without any real one: right types, no sense."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import TYPE_CHECKING

from include import partitions
from include.lake.csv_reader import read_csv
from include.lake.tables import PARTITION_COLUMN

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import pyarrow as pa

    from include.spec import ColumnType, ModelSpec, TableSpec

NUM_ROWS = 400
_NUM_TEXTS = 5


def write_generated(spec: ModelSpec, *, folder: Path) -> None:
    """Write the first partition's files as they would be landed."""
    key = spec.source.first_partition
    (folder / key).mkdir(parents=True)
    for table in spec.source.tables.values():
        (folder / key / table.file).write_bytes(_csv(table, spec=spec, num_rows=NUM_ROWS))


def typed_rows(spec: ModelSpec, *, num_rows: int) -> dict[str, pa.Table]:
    """Return made-up rows of each table, typed as ingest types them, with their partition."""
    import pyarrow as pa

    found = {}
    for name, table in spec.source.tables.items():
        text = _csv(table, spec=spec, num_rows=max(1, num_rows))
        rows = read_csv(text, file=table.file.removesuffix(".gz"), table=table)
        key = pa.array([spec.source.first_partition] * rows.num_rows, pa.string())
        found[name] = rows.append_column(PARTITION_COLUMN, key).slice(0, num_rows)
    return found


def _csv(table: TableSpec, *, spec: ModelSpec, num_rows: int) -> bytes:
    key = spec.source.first_partition
    start = partitions.start_of(key, timezone=spec.source.timezone)
    step = (partitions.end_of(key, timezone=spec.source.timezone) - start) / num_rows
    fixed = dict(zip(table.partition_columns, partitions.calendar_parts(key), strict=False))
    texts = [name for name in table.primary_key if table.columns[name] == "string"]
    unique = [*table.primary_key, *texts][-1]  # one column is enough to tell rows apart
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    for number in range(num_rows):
        at = start + number * step
        writer.writerow(
            fixed.get(name, _value(kind, number=number, at=at, is_unique=name == unique))
            for name, kind in table.columns.items()
        )
    return text.getvalue().encode()


def _value(kind: ColumnType, *, number: int, at: datetime, is_unique: bool) -> str:
    """Return a value of a type; whole numbers that need not differ may be days of a month."""
    values: dict[ColumnType, str] = {
        "int64": str(number if is_unique else number % 28 + 1),
        "float64": f"{number % 89}.5",
        "string": f"k{number}" if is_unique else "abcde"[number % _NUM_TEXTS],
        "timestamp": (at + timedelta(microseconds=number if is_unique else 0)).isoformat().replace("+00:00", "Z"),
        "bool": "true" if number % 3 else "false",
    }
    return values[kind]
