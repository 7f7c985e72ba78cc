"""Where a sample comes from: rows as text, in the form in which they will be landed, batch by batch."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from include.errors import BadInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

BATCH_ROWS = 65_536
NOTHING_WRITTEN = "Nothing was written."


class Source(Protocol):
    """Rows that can be read from the start, more than once."""

    @property
    def origin(self) -> str:
        """What the source is, for people."""

    @property
    def num_rows_hint(self) -> int:
        """About how many rows there are."""

    @property
    def delimiter(self) -> str:
        """What stands between two values of the original; a comma where that means nothing."""

    def batches(self) -> Iterator[pa.Table]:
        """Yield all rows: columns of strings, empty where nothing is."""


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """A Parquet file."""

    path: Path
    num_rows_hint: int
    delimiter: str = ","

    @property
    def origin(self) -> str:
        """Its name."""
        return self.path.name

    def batches(self) -> Iterator[pa.Table]:
        """Yield the rows as text."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(self.path).iter_batches(batch_size=BATCH_ROWS):
            yield as_text(pa.Table.from_batches([batch]), origin=self.origin)


def open_parquet(path: Path) -> ParquetSource:
    """Return a Parquet file as a source.

    Raises:
        NotFoundError: No such file.
        BadInputError: It is no Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    require_file(path)
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInputError(f"{path} must be Parquet; got: {error}. {NOTHING_WRITTEN} Name another file.") from error
    require_names(list(file.schema_arrow.names), what=str(path))
    return ParquetSource(path=path, num_rows_hint=file.metadata.num_rows)


def as_text(rows: pa.Table, *, origin: str) -> pa.Table:
    """Return rows as the text that a landed CSV file would hold: times in ISO 8601, empty for null and NaN.

    Raises:
        BadInputError: A column is a list, a struct or bytes.
    """
    import pyarrow as pa

    columns = {}
    for field in rows.schema:
        try:
            columns[field.name] = _text_of(rows[field.name])
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise BadInputError(
                f"column {field.name!r} of {origin} must fit into a CSV file; got {field.type}. {NOTHING_WRITTEN} "
                "Leave it out, or select its parts by --sql."
            ) from error
    return pa.table(columns)


def _text_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    elif pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz="UTC" if column.type.tz else None))
    elif pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        raise pa.ArrowTypeError("bytes")
    return pc.fill_null(column.cast(pa.string()), "")


def require_file(path: Path) -> None:
    """Refuse a sample that is no file.

    Raises:
        NotFoundError: There is none.
    """
    if not path.is_file():
        raise NotFoundError(
            f"the sample {str(path)!r} must be a file; got none there. {NOTHING_WRITTEN} Name another one."
        )


def require_names(names: list[str], *, what: str) -> None:
    """Refuse columns that a model cannot be made of.

    Raises:
        BadInputError: Two have one name, there are too few, or one has a name that is taken.
    """
    folded = [name.lower() for name in names]  # SQL does not tell Age from age
    twice = sorted({name for name in names if folded.count(name.lower()) > 1})
    if twice:
        raise BadInputError(
            f"{what} must name each column once, upper and lower case alike; got {', '.join(map(repr, twice))} more "
            f"than once. {NOTHING_WRITTEN} Rename one."
        )
    if len(names) < 3:  # noqa: PLR2004 - a time, a label and an input
        raise BadInputError(
            f"{what} must name at least a time, a label and an input; got {len(names)} column(s): "
            f"{', '.join(names)}. {NOTHING_WRITTEN} Name another sample, or its delimiter is none of , ; | and tab."
        )
    taken = [name for name in names if name.lower() == "partition"]
    if taken:
        raise BadInputError(
            f"{what} must leave the name 'partition' to Tradewind; got a column {taken[0]!r}. {NOTHING_WRITTEN} "
            "Rename it."
        )


def to_csv(rows: pa.Table, *, header: bool = True) -> bytes:
    """Return columns of strings as the CSV that `include.lake` reads: comma, quotes only where needed, newline last."""
    import pyarrow.compute as pc
    from pyarrow import csv as pa_csv

    sink = io.BytesIO()
    if header:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(rows.column_names)
        sink.write(text.getvalue().encode())
    special = any(
        pc.any(pc.match_substring_regex(rows[name], '[",\r\n]')).as_py() for name in rows.column_names if rows.num_rows
    )
    quoting = "needed" if special else "none"
    pa_csv.write_csv(rows, sink, pa_csv.WriteOptions(include_header=False, quoting_style=quoting))
    return sink.getvalue()
