"""The online store is brought to what the feature tables say, in one transaction over all views of a model."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include import partitions
from include.errors import NotFoundError
from include.features.examples import feature_table, read_features
from include.features.feast_layout import encode_value, entity_key, key_prefix, table_name, to_stored_time
from include.features.feast_repository import connect_for_writing, ensure_applied
from include.features.store import online_path
from include.lake.tables import partition_commit

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    import pyarrow as pa

    from include.lake.storage import Storage
    from include.spec import ModelSpec, StoreViewSpec

    StoredRow = tuple[bytes, str, bytes, str | None, int, int]


@dataclass(frozen=True, kw_only=True)
class Materialized:
    """What one materialization did.

    Args:
        partition: Its key.
        num_entities: View -> entities of the partition.
        num_written: Values of the partition that were written; those that a newer one already replaced were not.
        num_withdrawn: Entities that an earlier build of the same partition had and this one has not.
    """

    partition: str
    num_entities: Mapping[str, int]
    num_written: int
    num_withdrawn: int


def materialize(*, spec: ModelSpec, storage: Storage, partition: str) -> Materialized:
    """Write a partition's features into the online store; a value of an older partition never replaces a newer one.

    All views change in one SQLite transaction: readers see all of it or nothing, and so does whoever comes after a
    kill. The tables are read inside it, so that of two materializations the later one has read the later state.
    Repeating it, in any order of partitions, ends in the same store. Entities that a corrected partition no longer has
    get back the newest value of the partitions before. A model without store features has no online tables: nothing is
    written, and neither Feast nor the store's file is touched.

    Raises:
        NotFoundError: The partition's features were never built.
        SetupError: The lake is in an object store.
    """
    if not spec.features.store:
        return Materialized(partition=partition, num_entities={}, num_written=0, num_withdrawn=0)
    for view in spec.features.store:
        _require_built(spec=spec, storage=storage, view=view, partition=partition)
    ensure_applied(spec=spec, storage=storage)
    num_entities: dict[str, int] = {}
    num_written = num_withdrawn = 0
    with closing(connect_for_writing(online_path(storage))) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for view in spec.features.store:
            rows = read_features(spec=spec, storage=storage, view=view, partitions=(partition,))
            num_entities[view] = rows.num_rows
            num_withdrawn += _withdraw(
                connection, spec=spec, storage=storage, view=view, partition=partition, rows=rows
            )
            num_written += _upsert(connection, spec=spec, view=view, rows=rows)
        connection.execute("COMMIT")
    return Materialized(
        partition=partition, num_entities=num_entities, num_written=num_written, num_withdrawn=num_withdrawn
    )


def _require_built(*, spec: ModelSpec, storage: Storage, view: str, partition: str) -> None:
    uri = storage.table(spec.name, feature_table(view))
    if partition_commit(uri=uri, partition=partition, storage_options=storage.options) is None:
        raise NotFoundError(
            f"view {view!r} of {spec.name!r} needs features of {partition} to materialize; got none. The online store "
            "is unchanged. Build the partition's features first."
        )


def _upsert(connection: sqlite3.Connection, *, spec: ModelSpec, view: str, rows: pa.Table) -> int:
    """Write rows where no newer value is; return how many values were written."""
    before = connection.total_changes
    # The check for a newer value is part of the statement that writes, so nothing can come between the two.
    connection.executemany(
        f"INSERT INTO {table_name(project=spec.name, view=view)} "  # noqa: S608 - an identifier by the spec's pattern
        "(entity_key, feature_name, value, value_text, event_ts, created_ts) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value, "
        "value_text = excluded.value_text, event_ts = excluded.event_ts, created_ts = excluded.created_ts "
        "WHERE excluded.event_ts >= event_ts",
        _stored_rows(rows, view_spec=spec.features.store[view]),
    )
    return connection.total_changes - before


def _stored_rows(rows: pa.Table, *, view_spec: StoreViewSpec) -> Iterator[StoredRow]:
    prefix = key_prefix(view_spec.entity)
    moments: dict[datetime, int] = {}
    names = view_spec.fields
    columns = [rows[name].to_pylist() for name in (view_spec.entity, "available_at", "published_at", *names)]
    for entity, available_at, published_at, *values in zip(*columns, strict=True):
        for moment in (available_at, published_at):
            if moment not in moments:
                moments[moment] = to_stored_time(moment)
        key = entity_key(prefix, entity)
        for name, value in zip(names, values, strict=True):
            text = None if value is None else str(value)
            yield key, name, encode_value(value), text, moments[available_at], moments[published_at]


def _withdraw(
    connection: sqlite3.Connection, *, spec: ModelSpec, storage: Storage, view: str, partition: str, rows: pa.Table
) -> int:
    """Undo what an earlier build of the partition wrote of entities that it no longer has; return how many."""
    moment = _moment(spec=spec, partition=partition, rows=rows)
    if moment is None:
        return 0
    view_spec, stored = spec.features.store[view], to_stored_time(moment)
    prefix, table = key_prefix(view_spec.entity), table_name(project=spec.name, view=view)
    kept = {entity_key(prefix, entity) for entity in rows[view_spec.entity].to_pylist()}
    query = f"SELECT DISTINCT entity_key FROM {table} WHERE event_ts = ?"  # noqa: S608 - see _upsert
    withdrawn = {key for (key,) in connection.execute(query, [stored])} - kept
    if not withdrawn:
        return 0
    statement = f"DELETE FROM {table} WHERE entity_key = ? AND event_ts = ?"  # noqa: S608 - see _upsert
    connection.executemany(statement, [(key, stored) for key in withdrawn])
    earlier = read_features(spec=spec, storage=storage, view=view).to_pylist()
    newest = {
        row[view_spec.entity]: row
        for row in sorted(earlier, key=lambda row: row["available_at"])
        if row["available_at"] < moment and entity_key(prefix, row[view_spec.entity]) in withdrawn
    }
    _upsert(connection, spec=spec, view=view, rows=rows.from_pylist(list(newest.values()), schema=rows.schema))
    return len(withdrawn)


def _moment(*, spec: ModelSpec, partition: str, rows: pa.Table) -> datetime | None:
    """Return when the partition's rows became available; None if that cannot be told because there are none."""
    if rows.num_rows:
        return rows["available_at"][0].as_py()
    if spec.source.clock == "replay":
        end = partitions.end_of(partition, timezone=spec.source.timezone)
        return partitions.available_at(partition, source=spec.source, published_at=end)
    return None
