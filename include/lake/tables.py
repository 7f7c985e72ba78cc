"""Versioned tables: one partition is replaced by one atomic commit, and equal content makes no commit at all.

Readers see the whole old partition or the whole new one. A writer killed anywhere leaves at most unreferenced files.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from include import partitions
from include.errors import BadInputError, NotFoundError, SchemaError, ServiceError
from include.lake.content import content_hash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from deltalake import DeltaTable

__all__ = [
    "PARTITION_COLUMN",
    "Commit",
    "content_hash",
    "current_version",
    "partition_commit",
    "read_table",
    "table_exists",
    "write_partition",
]

PARTITION_COLUMN = "partition"
_MAX_ATTEMPTS = 8
_FIRST_PAUSE_S = 0.05
# Commits are the record of what each partition held and who wrote it: Delta's default forgets them after 30 days.
_CONFIGURATION = {"delta.logRetentionDuration": "interval 36500 days"}
# What delta-rs 1.6 says of a faster writer; a commit that fails for any other reason is no conflict. The number: it
# found the next versions taken as often as it tried by itself.
_CONFLICT = re.compile(
    r"a concurrent transaction|concurrent transaction failed|(metadata|protocol) changed since last commit"
    r"|version \d+ already exists|existing table version: \d+|failed to commit transaction: \d+$"
    r"|exceeded maximum commit attempts|a table already exists at"
)
_NO_CONTENT_CHANGE = frozenset({"OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "ADD COLUMN", "FSCK"})


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What a partition holds since which version.

    Args:
        version: Version of the table that first held this content of the partition.
        num_rows: Rows of the partition.
        checksum: Its `content_hash`.
        is_new: Whether this call made the commit; False when the partition held equal content before.
        metadata: What the writer recorded: `partition`, `num_rows`, `content_hash` and its own keys.
    """

    version: int
    num_rows: int
    checksum: str
    is_new: bool
    metadata: Mapping[str, str]


def write_partition(
    *,
    uri: str,
    table: pa.Table,
    partition: str,
    storage_options: Mapping[str, str],
    metadata: Mapping[str, str] | None = None,
) -> Commit:
    """Replace one partition of a Delta table, unless it already holds the same rows; no rows empty it.

    Args:
        uri: The table; it is created if it does not exist.
        table: The partition's rows. The column `partition` is added if it is missing.
        partition: Key of the partition.
        storage_options: delta-rs options of the storage.
        metadata: Recorded in the commit, beside `partition`, `num_rows` and `content_hash`.

    Raises:
        BadInputError: Rows of another partition.
        SchemaError: The table holds other columns or types; new columns alone are added.
        ServiceError: Other writers were faster, every time.
    """
    from deltalake.exceptions import DeltaError

    rows = _with_partition(table, partition=partition)
    checksum = content_hash(rows)
    recorded = {
        **(metadata or {}),
        "partition": partition,
        "num_rows": str(rows.num_rows),
        "content_hash": checksum,
    }
    last: DeltaError | None = None
    for attempt in range(_MAX_ATTEMPTS):
        if last is not None:
            time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
        held = _find(uri=uri, storage_options=storage_options)
        found = _commit_of(held, partition=partition) if held is not None else None
        if found is not None and found.checksum == checksum:
            return found
        try:
            _overwrite(held, uri=uri, rows=rows, storage_options=storage_options, recorded=recorded)
        except DeltaError as error:
            if not _is_conflict(error):
                raise
            last = error
            continue
        return _own_commit(uri=uri, partition=partition, checksum=checksum, storage_options=storage_options)
    raise ServiceError(
        f"table {uri!r} must accept a commit of partition {partition!r} within {_MAX_ATTEMPTS} attempts; other writers "
        f"were faster each time, and delta-rs said last: {last}. The table is whole and holds theirs. Stop the other "
        "writers of this partition, retry."
    ) from last


def read_table(
    *,
    uri: str,
    storage_options: Mapping[str, str],
    version: int | None = None,
    partitions: Sequence[str] | None = None,
) -> pa.Table:
    """Return the rows of a Delta table, at a version or now, of all partitions or of the given ones.

    Raises:
        NotFoundError: No such table or version.
    """
    table = _open(uri=uri, storage_options=storage_options, version=version)
    chosen = [(PARTITION_COLUMN, "in", list(partitions))] if partitions is not None else None
    return table.to_pyarrow_table(filters=chosen)


def current_version(*, uri: str, storage_options: Mapping[str, str]) -> int:
    """Return the newest version of a Delta table.

    Raises:
        NotFoundError: No such table.
    """
    return int(_open(uri=uri, storage_options=storage_options).version())


def published_partitions(*, uri: str, storage_options: Mapping[str, str]) -> frozenset[str]:
    """Return the keys of the partitions that hold rows; none if there is no table."""
    try:
        table = _open(uri=uri, storage_options=storage_options)
    except NotFoundError:
        return frozenset()
    return frozenset(found[PARTITION_COLUMN] for found in table.partitions())


def table_exists(*, uri: str, storage_options: Mapping[str, str]) -> bool:
    """Return whether a Delta table is there."""
    return _find(uri=uri, storage_options=storage_options) is not None


def partition_commit(*, uri: str, partition: str, storage_options: Mapping[str, str]) -> Commit | None:
    """Return the commit that a partition's content comes from; None if it was never written or is unknown.

    It is unknown after a change that this module did not make, such as a restore or a delete by hand.
    """
    held = _find(uri=uri, storage_options=storage_options)
    return _commit_of(held, partition=partition) if held is not None else None


def _commit_of(held: DeltaTable, *, partition: str) -> Commit | None:
    for entry in held.history():
        if "content_hash" in entry:
            if entry[PARTITION_COLUMN] == partition:
                return _to_commit(entry)
        elif entry.get("operation") not in _NO_CONTENT_CHANGE:
            return None
    return None


def _own_commit(*, uri: str, partition: str, checksum: str, storage_options: Mapping[str, str]) -> Commit:
    """Return the commit that was just made, even when another writer has committed since."""
    history = _open(uri=uri, storage_options=storage_options).history()
    own = next(e for e in history if e.get(PARTITION_COLUMN) == partition and e.get("content_hash") == checksum)
    return replace(_to_commit(own), is_new=True)


def _with_partition(table: pa.Table, *, partition: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    partitions.shift(partition, 0)  # the key becomes part of a predicate: refuse what is no key
    if PARTITION_COLUMN not in table.column_names:
        return table.append_column(PARTITION_COLUMN, pa.array([partition] * table.num_rows, pa.string()))
    others = [key for key in pc.unique(table[PARTITION_COLUMN]).to_pylist() if key != partition]
    if others:
        raise BadInputError(
            f"rows for partition {partition!r} must belong to it; got rows of {others[:5]}. Nothing was written. "
            "Write each partition by itself."
        )
    return table


def _overwrite(
    held: DeltaTable | None,
    *,
    uri: str,
    rows: pa.Table,
    storage_options: Mapping[str, str],
    recorded: Mapping[str, str],
) -> None:
    """Commit on top of the version that `held` shows, so that a faster writer of the same partition is a conflict."""
    from deltalake import CommitProperties, write_deltalake

    has_new_columns = held is not None and _has_new_columns(held, uri=uri, rows=rows)
    write_deltalake(
        uri if held is None else held,
        rows,
        mode="overwrite",
        predicate=f"{PARTITION_COLUMN} = '{recorded[PARTITION_COLUMN]}'",
        partition_by=[PARTITION_COLUMN],
        schema_mode="merge" if has_new_columns else None,
        configuration=_CONFIGURATION if held is None else None,
        storage_options=dict(storage_options),
        commit_properties=CommitProperties(custom_metadata=dict(recorded)),
    )


def _has_new_columns(table: DeltaTable, *, uri: str, rows: pa.Table) -> bool:
    import pyarrow as pa

    held = pa.schema(table.schema())
    missing = [name for name in held.names if name not in rows.column_names]
    changed = [
        f"{field.name}: {field.type} instead of {held.field(field.name).type}"
        for field in rows.schema
        if field.name in held.names and _kind(field.type) != _kind(held.field(field.name).type)
    ]
    if missing or changed:
        raise SchemaError(
            f"rows for table {uri!r} must have its columns and types; got none of {missing}, and {changed}. The table "
            "is unchanged. Add the columns, or move the table aside and fill it again from the first partition."
        )
    return len(rows.column_names) > len(held.names)


def _kind(kind: pa.DataType) -> str:
    return str(kind).removeprefix("large_").removesuffix("_view")


def _find(*, uri: str, storage_options: Mapping[str, str]) -> DeltaTable | None:
    try:
        return _open(uri=uri, storage_options=storage_options)
    except NotFoundError:
        return None


def _open(*, uri: str, storage_options: Mapping[str, str], version: int | None = None) -> DeltaTable:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        return DeltaTable(uri, version=version, storage_options=dict(storage_options))
    except TableNotFoundError as error:
        raise NotFoundError(
            f"table {uri!r} must exist; got nothing there. Nothing was changed. Run the stage that writes it first."
        ) from error
    except DeltaError as error:
        if version is not None and table_exists(uri=uri, storage_options=storage_options):
            newest = _open(uri=uri, storage_options=storage_options).version()
            raise NotFoundError(
                f"version of table {uri!r} must be 0 to {newest}; got {version}. Nothing was changed. Name one."
            ) from error
        raise


def _to_commit(entry: Mapping[str, Any]) -> Commit:
    own = {key: value for key, value in entry.items() if isinstance(value, str)}
    return Commit(
        version=int(entry["version"]),
        num_rows=int(entry["num_rows"]),
        checksum=entry["content_hash"],
        is_new=False,
        metadata=own,
    )


def _is_conflict(error: Exception) -> bool:
    """Return whether another writer was faster; delta-rs names the cases only in the message."""
    return _CONFLICT.search(str(error).lower()) is not None
