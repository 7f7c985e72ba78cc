"""Landed CSV text as a typed table, strictly: what the spec does not declare is an error that names the place."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import re
import zlib
from typing import TYPE_CHECKING

from include.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from include.spec import ColumnType, TableSpec

_REMEDY = "Nothing was ingested. Have the upstream system land the file again, or mend `columns` in model.yaml."
_LAND_AGAIN = "Nothing was ingested. Have the upstream system land the file again, whole, then the marker."
_HEADER_LINES = 1
_PATTERNS: dict[ColumnType, re.Pattern[str]] = {
    "int64": re.compile(r"[+-]?\d{1,18}"),
    "float64": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    "timestamp": re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d(:?\d\d)?)"),
    "bool": re.compile(r"true|false|True|False|TRUE|FALSE|0|1"),
    "string": re.compile(r".*", re.DOTALL),
}


def read_csv(content: bytes, *, file: str, table: TableSpec) -> pa.Table:
    """Return the rows of a landed file with the columns and types of the spec, in the spec's order.

    The file is UTF-8 text with a header line; columns may come in any order; each line, the last one too, ends with a
    newline, so that a cut file is found; timestamps carry their zone. Names that end with `.gz` are decompressed.

    Raises:
        SchemaError: The file is empty, cut, no CSV text, or has other columns or values than declared; the message
            names the file, the column, the first bad line with its value, and the number of bad values.
    """
    text = _decompress(content, file=file) if file.endswith(".gz") else content
    _check_text(text, file=file)
    names = _header(text)
    _check_columns(names, file=file, expected=list(table.columns))
    if text.count(b"\n") == _HEADER_LINES:
        raise SchemaError(
            f"file {file!r} must hold at least one row; got its header alone. Nothing was ingested. Land the "
            "partition's rows; a partition without rows is never right here."
        )
    return _parse(text, names=names, file=file, table=table)


def _decompress(content: bytes, *, file: str) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise SchemaError(f"file {file!r} must be whole gzip data; got: {error}. {_LAND_AGAIN}") from error


def _check_text(text: bytes, *, file: str) -> None:
    if not text:
        raise SchemaError(f"file {file!r} must start with a header line; got 0 bytes. {_LAND_AGAIN}")
    zero = text.find(b"\0")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        zero = error.start if zero < 0 else min(zero, error.start)
    if zero >= 0:
        raise SchemaError(
            f"file {file!r} must be CSV in UTF-8; got byte 0x{text[zero]:02x} at offset {zero}, which is no text. "
            f"{_LAND_AGAIN}"
        )
    if not text.endswith(b"\n"):
        *lines, last = text.decode().split("\n")
        raise SchemaError(
            f"file {file!r} must end with a newline; got a cut line {len(lines) + 1}: {last[:80]!r}. {_LAND_AGAIN}"
        )


def _header(text: bytes) -> list[str]:
    line = text[: text.index(b"\n")].decode("utf-8-sig").rstrip("\r")
    return next(csv.reader([line]), [])


def _check_columns(names: list[str], *, file: str, expected: list[str]) -> None:
    missing = [name for name in expected if name not in names]
    extra = [name for name in names if name not in expected]
    twice = sorted({name for name in names if names.count(name) > 1})
    faults = []
    for name in missing:
        close = difflib.get_close_matches(name, extra, n=1)
        faults.append(f"no {name!r}" + (f" (renamed to {close[0]!r}?)" if close else ""))
    faults += [f"undeclared {name[:80]!r}" for name in extra]
    faults += [f"{name!r} more than once" for name in twice]
    if faults:
        raise SchemaError(
            f"header of file {file!r} must name the columns {', '.join(expected)}; got {', '.join(faults[:10])}. "
            f"{_REMEDY}"
        )


def _parse(text: bytes, *, names: list[str], file: str, table: TableSpec) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv as pa_csv

    try:
        rows = pa_csv.read_csv(
            pa.BufferReader(text),
            parse_options=pa_csv.ParseOptions(ignore_empty_lines=False),
            convert_options=pa_csv.ConvertOptions(
                column_types={name: _arrow_type(kind) for name, kind in table.columns.items()},
                include_columns=list(table.columns),
                null_values=list(table.null_values),
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        faults = _faults(text, names=names, table=table) or [str(error).splitlines()[0]]
        raise SchemaError(
            f"file {file!r} must hold what model.yaml declares; got {'; '.join(faults)}. {_REMEDY}"
        ) from error
    _check_finite(rows, file=file)
    return rows.combine_chunks()


def _arrow_type(kind: ColumnType) -> pa.DataType:
    import pyarrow as pa

    return {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "bool": pa.bool_(),
    }[kind]


def _faults(text: bytes, *, names: list[str], table: TableSpec) -> list[str]:
    """Return what is wrong, by reading slowly: lines of another width, or else each column's bad values."""
    lines = list(_lines(text))
    uneven = [(number, row) for number, row in lines if len(row) != len(names)]
    if uneven:
        number, row = uneven[0]
        return [
            f"{len(uneven)} lines without {len(names)} values, the first is line {number} with {len(row)}: {row[:4]}"
        ]
    faults = []
    for index, name in enumerate(names):
        kind = table.columns[name]
        bad = [
            (n, row[index]) for n, row in lines if row[index] not in table.null_values and not _is_of(row[index], kind)
        ]
        if bad:
            number, value = bad[0]
            faults.append(
                f"column {name!r} ({kind}): {len(bad)} other values, the first on line {number}: {value[:80]!r}"
            )
    return faults


def _lines(text: bytes) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text.decode("utf-8-sig"), newline=""))
    next(reader)
    for row in reader:
        yield reader.line_num, row


def _is_of(value: str, kind: ColumnType) -> bool:
    return bool(_PATTERNS[kind].fullmatch(value))


def _check_finite(rows: pa.Table, *, file: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in rows.column_names:
        column = rows[name]
        if not pa.types.is_floating(column.type):
            continue
        bad = pc.indices_nonzero(pc.invert(pc.fill_null(pc.is_finite(column), fill_value=True))).to_pylist()
        if bad:
            raise SchemaError(
                f"file {file!r} must hold finite numbers; got column {name!r}: {len(bad)} others, the first on line "
                f"{bad[0] + _HEADER_LINES + 1}: {column[bad[0]].as_py()}. {_REMEDY}"
            )
