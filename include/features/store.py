"""The online store as the model server reads it: Feast's SQLite file, without Feast.

One answer is one snapshot over all views, so it never mixes two materializations. A read never waits for a writer (the
file is in WAL mode), and the next read after a materialization sees it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from include.errors import BadInputError, CorruptArtifactError, NotFoundError, ServiceError, SetupError
from include.features.feast_layout import decode_value, entity_key, from_stored_time, key_prefix, table_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from include.lake.storage import Storage
    from include.spec import ModelSpec, StoreViewSpec

    StoredValue = tuple[float | None, datetime]
    """A value and when it became available."""

_MAX_KEYS = 10_000  # SQLite allows 32,766 parameters in one statement
_BUSY_TIMEOUT_S = 5.0


class OnlineStore:
    """Reads the online store; one object serves any number of threads.

    Each thread has a connection of its own, opened on its first read and again when the file was replaced.

    Args:
        path: Feast's SQLite file. It need not exist yet.
    """

    def __init__(self, *, path: Path) -> None:
        self.path = path
        self._own = threading.local()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection on which every read sees the same state of the store.

        Raises:
            NotFoundError: Nothing was materialized yet.
            CorruptArtifactError: The file is no SQLite database.
            ServiceError: SQLite cannot read it.
        """
        try:
            connection = self._connection()
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                raise _nothing_yet(self.path) from error
            raise ServiceError(
                f"online store {self.path} must answer within {_BUSY_TIMEOUT_S:.0f} s; got: {error}. Nothing was "
                "changed. Retry; look at the disk if it stays."
            ) from error
        except sqlite3.DatabaseError as error:
            raise CorruptArtifactError(
                f"online store {self.path} must be an SQLite database; got: {error}. Nothing was changed. Delete the "
                "file and materialize the newest partitions again."
            ) from error

    def _connection(self) -> sqlite3.Connection:
        try:
            inode = os.stat(self.path).st_ino  # noqa: PTH116 - a Path object costs more than the call, on each request
        except FileNotFoundError as error:
            raise _nothing_yet(self.path) from error
        if getattr(self._own, "inode", None) != inode:
            if hasattr(self._own, "connection"):
                self._own.connection.close()
            self._own.connection = sqlite3.connect(
                f"file:{quote(str(self.path))}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None
            )
            self._own.inode = inode
        return self._own.connection


def online_path(storage: Storage) -> Path:
    """Return the SQLite file of the online store.

    Raises:
        SetupError: The lake is in an object store, where SQLite cannot live, and no local folder is named.
    """
    if "://" in storage.feast():
        raise SetupError(
            f"Feast's SQLite online store needs a local disk; got {storage.feast()!r}. Nothing was changed. Add "
            "`local_path`, a folder, to the extra of the lake's connection."
        )
    return Path(storage.feast()) / "online.db"


def open_store(*, spec: ModelSpec, storage: Storage) -> OnlineStore:
    """Return the online store that holds a model's features; all models of a lake share one.

    Raises:
        SetupError: As for `online_path`.
    """
    if not spec.features.store:
        raise BadInputError(
            f"model {spec.name!r} must declare features.store to read them; got none. Nothing was read."
        )
    return OnlineStore(path=online_path(storage))


def online_features(
    store: OnlineStore,
    spec: ModelSpec,
    entity_rows: Mapping[str, Sequence[str | None]],
    *,
    as_of: datetime | None = None,
) -> dict[str, list[float | None]]:
    """Return each store feature's values for B rows; None where an entity is unknown, missing or its value too old.

    A value is too old when more than its view's `ttl_days` passed between `available_at` and `as_of`, the same rule by
    which `training_set` joins. It costs well under a millisecond for 16 rows of 4 views.

    Args:
        store: From `open_store`.
        spec: The model.
        entity_rows: Entity column -> its B values; other columns are ignored.
        as_of: The moment of serving, aware. By default now; under `clock: replay` the moment of the view's newest
            materialization, where the clock of a replay stands.

    Raises:
        BadInputError: An entity column is missing.
        NotFoundError: Nothing was materialized yet.
        CorruptArtifactError: The store's file or a value cannot be read.
        ServiceError: The store does not answer.
    """
    missing = [entity for entity in spec.features.entities if entity not in entity_rows]
    if missing:
        raise BadInputError(
            f"features of {spec.name!r} need the entities {', '.join(spec.features.entities)}; got none of "
            f"{', '.join(missing)}. Nothing was read. Send a value, or null, for each row."
        )
    columns: dict[str, list[float | None]] = {}
    with store.snapshot() as connection:
        for view, view_spec in spec.features.store.items():
            entities = entity_rows[view_spec.entity]
            found = read_view(connection, spec=spec, view=view, entities={e for e in entities if e is not None})
            moment = as_of or _clock(connection, spec=spec, view=view)
            fresh = {e: _fresh(values, as_of=moment, view_spec=view_spec) for e, values in found.items()}
            for name in view_spec.fields:
                columns[name] = [fresh[e].get(name) if e in fresh else None for e in entities]
    return columns


def read_view(
    connection: sqlite3.Connection, *, spec: ModelSpec, view: str, entities: Collection[str]
) -> dict[str, dict[str, StoredValue]]:
    """Return entity -> field -> its value and when that became available, for the entities that the store knows."""
    prefix = key_prefix(spec.features.store[view].entity)
    names = {entity_key(prefix, entity): entity for entity in entities}
    keys = list(names)
    moments: dict[int, datetime] = {}
    found: dict[str, dict[str, StoredValue]] = {}
    for start in range(0, len(keys), _MAX_KEYS):
        chunk = keys[start : start + _MAX_KEYS]
        query = (
            "SELECT entity_key, feature_name, value, event_ts "  # noqa: S608 - an identifier by the spec's own pattern
            f"FROM {table_name(project=spec.name, view=view)} WHERE entity_key IN ({','.join('?' * len(chunk))})"
        )
        for key, name, message, stored in connection.execute(query, chunk):
            if stored not in moments:
                moments[stored] = from_stored_time(stored)
            found.setdefault(names[key], {})[name] = (decode_value(message), moments[stored])
    return found


def content_hash(store: OnlineStore, spec: ModelSpec) -> str:
    """Return the SHA-256 of all that the store holds of a model, with its times, in any order of writing."""
    digest = hashlib.sha256()
    with store.snapshot() as connection:
        for view in sorted(spec.features.store):
            query = (
                "SELECT entity_key, feature_name, value, event_ts "  # noqa: S608 - see read_view
                f"FROM {table_name(project=spec.name, view=view)} ORDER BY entity_key, feature_name"
            )
            digest.update(f"{view}\n".encode())
            for key, name, message, stored in connection.execute(query):
                digest.update(repr((key, name, message, from_stored_time(stored).isoformat())).encode())
    return digest.hexdigest()


def _fresh(values: Mapping[str, StoredValue], *, as_of: datetime, view_spec: StoreViewSpec) -> dict[str, float | None]:
    ttl = timedelta(days=view_spec.ttl_days)
    return {name: value for name, (value, available_at) in values.items() if as_of - available_at <= ttl}


def _clock(connection: sqlite3.Connection, *, spec: ModelSpec, view: str) -> datetime:
    if spec.source.clock == "wall":
        return datetime.now(UTC)
    query = f"SELECT max(event_ts) FROM {table_name(project=spec.name, view=view)}"  # noqa: S608 - see read_view
    (newest,) = connection.execute(query).fetchone()
    return datetime.now(UTC) if newest is None else from_stored_time(newest)


def _nothing_yet(path: Path) -> NotFoundError:
    return NotFoundError(
        f"online store {path} must hold the model's features; got nothing there yet. Nothing was read. Materialize a "
        "partition first."
    )
