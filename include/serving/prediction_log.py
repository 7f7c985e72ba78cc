"""Served predictions as Parquet files: written behind the answers, never in their way."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.tasks.outputs import output_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pyarrow as pa

    from include.tasks import Task

_LOG = logging.getLogger(__name__)

TEMPORARY_SUFFIX = ".tmp"
STALE_AFTER_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class LogRecord:
    """What one version answered to one request.

    Args:
        model: The model's name.
        request_id: The caller's id, or one made up.
        example_ids: The rows' names, None when the caller sent none.
        version: Version that scored.
        role: champion, canary or shadow.
        task: What was predicted; it names the column.
        predictions: A number for each row, or a list of them for each.
        columns: Every model input, request and store features alike, as the graph saw it.
        strings: Which of them are strings; the others are numbers.
        logged_at_us: Microseconds since 1970, UTC.
    """

    model: str
    request_id: str
    example_ids: Sequence[str] | None
    version: str
    role: str
    task: Task
    predictions: Sequence[Any]
    columns: Mapping[str, Sequence[Any]]
    strings: frozenset[str]
    logged_at_us: int


@dataclass(kw_only=True)
class PredictionLog:
    """A bounded queue and the thread that empties it into files.

    A full queue (the disk is slow) and a failed write (it is full) drop rows and count them; requests never wait.

    Args:
        folder_of: Model -> folder of its Parquet files.
        max_pending_rows: Rows that may wait in memory.
        flush_rows: Rows after which a file is written at once.
        flush_interval_s: Most seconds that a row waits.
        write: Writes a table to a path; a seam for tests of a full disk.
    """

    folder_of: Callable[[str], str]
    max_pending_rows: int = 200_000
    flush_rows: int = 20_000
    flush_interval_s: float = 5.0
    write: Callable[[pa.Table, Path], None] = field(default=lambda table, path: _write(table, path))  # noqa: PLW0108 - defined below
    num_written: int = 0
    num_dropped: int = 0
    num_files: int = 0
    _records: deque[LogRecord] = field(default_factory=deque)
    _num_pending: int = 0
    _is_writing: bool = False
    _flush_asked: bool = False
    _closed: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the writer."""
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def append(self, record: LogRecord) -> None:
        """Queue a record, or drop and count its rows."""
        num_rows = len(record.predictions)
        with self._changed:
            if self._closed or self._num_pending + num_rows > self.max_pending_rows:
                self.num_dropped += num_rows
                return
            self._records.append(record)
            self._num_pending += num_rows
            if self._num_pending >= self.flush_rows:
                self._changed.notify_all()

    def flush(self, *, timeout_s: float = 60.0) -> bool:
        """Write what was queued before this call; return whether nothing of it is left."""
        with self._changed:
            self._flush_asked = True
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: self._closed or not (self._flush_asked or self._is_writing), timeout_s
            )

    def close(self, *, timeout_s: float = 30.0) -> None:
        """Write what is queued and stop the writer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join(timeout_s)

    def counters(self) -> dict[str, int]:
        """Return rows written, dropped and waiting, and files written, since the server started."""
        with self._changed:
            return {
                "written_rows": self.num_written,
                "dropped_rows": self.num_dropped,
                "pending_rows": self._num_pending,
                "files": self.num_files,
            }

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._is_due, self.flush_interval_s)
                records, num_rows = list(self._records), self._num_pending
                self._records.clear()
                self._is_writing, self._flush_asked = bool(records), False
                is_last = self._closed
            by_kind: dict[tuple[str, Task], list[LogRecord]] = defaultdict(list)
            for record in records:
                by_kind[record.model, record.task].append(record)
            for (model, _), of_kind in by_kind.items():
                self._write_file(model, of_kind)
            with self._changed:
                self._num_pending -= num_rows
                self._is_writing = False
                self._changed.notify_all()
            if is_last:
                return

    def _is_due(self) -> bool:
        return self._closed or self._flush_asked or self._num_pending >= self.flush_rows

    def _write_file(self, model: str, records: list[LogRecord]) -> None:
        num_rows = sum(len(record.predictions) for record in records)
        folder = Path(self.folder_of(model))
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
        temporary = folder / f".{name}{TEMPORARY_SUFFIX}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.write(_table(records), temporary)
            temporary.rename(folder / name)
        except Exception:  # noqa: BLE001 - whatever fails here, the server goes on: rows are dropped, counted and named
            _LOG.exception("predictions of %r could not be logged; %d rows were dropped", model, num_rows)
            with self._changed:  # `append` counts what it drops from another thread
                self.num_dropped += num_rows
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        else:
            with self._changed:
                self.num_written += num_rows
                self.num_files += 1


def remove_stale_files(folders: Iterable[Path], *, now_s: float) -> int:
    """Remove files that a killed server never finished, an hour after their last byte; return how many."""
    stale = [
        path
        for folder in folders
        for path in folder.glob(f".*{TEMPORARY_SUFFIX}")
        if now_s - path.stat().st_mtime > STALE_AFTER_S
    ]
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


def _table(records: Sequence[LogRecord]) -> pa.Table:
    """Return records of one model and one task as rows."""
    import pyarrow as pa

    task = records[0].task
    counts = [len(record.predictions) for record in records]

    def repeat(values: Iterable[Any]) -> list[Any]:
        return list(chain.from_iterable([value] * count for value, count in zip(values, counts, strict=True)))

    example_ids: list[Sequence[str | None]] = [
        record.example_ids or [None] * count for record, count in zip(records, counts, strict=True)
    ]
    columns = {
        "request_id": pa.array(repeat(record.request_id for record in records), pa.string()),
        "example_id": pa.array(list(chain.from_iterable(example_ids)), pa.string()),
        "model_version": pa.array(repeat(record.version for record in records), pa.string()),
        "role": pa.array(repeat(record.role for record in records), pa.string()),
        task.output: pa.array(list(chain.from_iterable(r.predictions for r in records)), output_type(task)),
        "logged_at": pa.array(repeat(record.logged_at_us for record in records), pa.timestamp("us", tz="UTC")),
    }
    strings = frozenset[str]().union(*(record.strings for record in records))
    for name in dict.fromkeys(chain.from_iterable(record.columns for record in records)):
        # A version of an older spec may lack an input of a newer one while both are served.
        values = (r.columns.get(name) or [None] * count for r, count in zip(records, counts, strict=True))
        kind = pa.string() if name in strings else pa.float64()
        columns[name] = pa.array(list(chain.from_iterable(values)), kind)
    return pa.table(columns)


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    with path.open("xb") as file:
        pq.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())
