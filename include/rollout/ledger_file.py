"""The ledger's file: SQLite in WAL mode, whose own triggers refuse every change but an entry at the end."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import CorruptArtifactError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

TURN = "kind IN ('bootstrap', 'promote', 'roll_back')"
"""SQL: by the entry a version took over, or was taken out."""

TAKEOVER = f"""{TURN}
    AND json_extract(body, '$.evidence.champion') IS NOT NULL AND json_extract(body, '$.evidence.withdrawn') IS NULL"""
"""SQL: a version took over by the entry; taking a challenger out only repeats who serves anyway."""

BUSY_TIMEOUT_S = 30.0
BUSY_PAUSE_S = 0.01

# REPLACE deletes without firing delete triggers, so what an insert may collide with is refused by a trigger of its own.
_SCHEMA_VERSION = 2
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS entries_by_model ON entries (model, kind, seq);
CREATE INDEX IF NOT EXISTS entries_by_subject ON entries (model, json_extract(body, '$.subject'), kind, seq);
CREATE INDEX IF NOT EXISTS takeovers ON entries (model, seq) WHERE {TAKEOVER};
CREATE TRIGGER IF NOT EXISTS entries_never_change BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_never_vanish BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_only_follow BEFORE INSERT ON entries
WHEN EXISTS (SELECT 1 FROM entries WHERE key = NEW.key OR seq >= NEW.seq)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""  # noqa: S608 - a constant


@contextmanager
def open_ledger(path: str | Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection with the schema in place; SQLite's errors leave as ours."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != _SCHEMA_VERSION:
                _create(connection)
            connection.execute("PRAGMA synchronous = FULL")
            yield connection
    except sqlite3.DatabaseError as error:
        kind = ServiceError if isinstance(error, sqlite3.OperationalError) else CorruptArtifactError
        raise kind(
            f"ledger {path} must be a writable SQLite file, free within {BUSY_TIMEOUT_S:.0f} s; got: {error}. "
            "Nothing was recorded. Retry; an entry is recorded once however often it is sent."
        ) from error


def _create(connection: sqlite3.Connection) -> None:
    _log_ahead(connection)
    with write_alone(connection):
        for statement in _statements(_SCHEMA):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Put a new file into WAL mode; SQLite does not wait here for another that does the same, so it is asked again."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(BUSY_PAUSE_S)
        else:
            return


def _statements(script: str) -> list[str]:
    """Return a script's statements; `executescript` would commit the transaction that they must share."""
    found: list[str] = []
    pending = ""
    for line in script.strip().splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found


@contextmanager
def read_at_once(connection: sqlite3.Connection) -> Iterator[None]:
    """See one state of the file from the first read to the last, whatever others append meanwhile."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


@contextmanager
def write_alone(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock from before the first read, so that two writers never see the same head."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
