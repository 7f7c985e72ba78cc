"""When two tables hold the same rows."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def content_hash(table: pa.Table) -> str:
    """Return the SHA-256 of a table's rows: equal for the same rows in any order of rows, columns or chunks.

    Texts are equal whatever their Arrow encoding; other types count. NaN equals NaN and differs from missing.

    >>> import pyarrow as pa
    >>> one, other = pa.table({"a": [1, 2], "b": ["x", None]}), pa.table({"b": [None, "x"], "a": [2, 1]})
    >>> content_hash(one) == content_hash(other)
    True
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    digest = hashlib.sha256()
    flat: dict[str, pa.ChunkedArray] = {}
    for name in table.column_names:
        flat |= _without_lists(name, table[name])
    names = sorted(flat)
    columns = {name: _canonical(flat[name]) for name in names}
    if names and table.num_rows > 1:
        order = pc.sort_indices(pa.table(columns), sort_keys=[(name, "ascending") for name in names])
        columns = {name: column.take(order) for name, column in columns.items()}
    digest.update(f"{table.num_rows}".encode())
    for name, column in columns.items():
        digest.update(f"\n{name}:{column.type}\n".encode())
        for part in _bytes_of(column):
            digest.update(memoryview(part).cast("B"))
    return digest.hexdigest()


def _without_lists(name: str, column: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
    """Return a column of lists as its lengths and a column for each position, which can be sorted; others unchanged."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return {name: column}
    lengths = pc.list_value_length(column)
    parts = {
        f"{name}[{position}]": pc.list_element(
            pc.list_slice(column, position, position + 1, return_fixed_size_list=True), 0
        )
        for position in range(pc.max(lengths).as_py() or 0)
    }
    return {f"{name}[]": lengths.cast(pa.int64()), **parts}


def _canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", tz="UTC" if kind.tz else None))
    return column.cast(kind)


def _bytes_of(column: pa.ChunkedArray) -> list[Any]:
    """Return the validity and the values of a column as arrays, with one value in every missing place."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = column.combine_chunks()
    valid = pc.is_valid(whole).cast(pa.uint8()).to_numpy()
    if pa.types.is_null(whole.type):
        return [valid]
    if pa.types.is_large_string(whole.type):
        return [valid, *_text_bytes(pc.fill_null(whole, ""))]
    if pa.types.is_temporal(whole.type):
        whole = whole.cast(pa.int64())
    elif pa.types.is_boolean(whole.type):
        whole = whole.cast(pa.uint8())
    filled = pc.fill_null(whole, pa.scalar(0, whole.type))
    return [valid, filled.to_numpy()]


def _text_bytes(texts: pa.LargeStringArray) -> list[Any]:
    """Return the length of each text, then all texts in one piece, whatever part of a buffer they are."""
    import numpy as np
    import pyarrow.compute as pc

    if len(texts) == 0:
        return []
    _, offsets, joined = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    text = joined.slice(ends[0], ends[-1] - ends[0]) if joined is not None else b""
    return [pc.binary_length(texts).to_numpy(), text]
