"""Served predictions as Parquet files: made from the journal behind the answers, never in their way."""

from __future__ import annotations

import logging
import os
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.tasks.outputs import output_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pyarrow as pa

    from include.serving.counters import Work
    from include.serving.journal import Journal

_LOG = logging.getLogger(__name__)

TEMPORARY_SUFFIX = ".tmp"


@dataclass(kw_only=True)
class PredictionLog:
    """A journal and the thread that turns its segments into files.

    What is appended is on its way to the disk when the call returns, so a process that is killed loses nothing: the
    next one makes the files. A file is named after its segment, so that a segment that is turned twice gives the same
    files. A disk that is slow or full lets segments wait; beyond `max_pending_rows`, and when the journal cannot be
    written, rows are dropped and counted. Requests never wait.

    Args:
        journal: An opened journal.
        folder_of: Model -> folder of its Parquet files.
        max_pending_rows: Rows that may wait in the journal.
        flush_rows: Rows after which files are written at once.
        flush_interval_s: Most seconds that a row waits.
        write: Writes a table to a path; a seam for tests of a full disk.
    """

    journal: Journal
    folder_of: Callable[[str], str]
    max_pending_rows: int = 1_000_000
    flush_rows: int = 20_000
    flush_interval_s: float = 5.0
    write: Callable[[pa.Table, Path], None] = field(default=lambda table, path: _write(table, path))  # noqa: PLW0108 - defined below
    num_written: int = 0
    num_dropped: int = 0
    num_files: int = 0
    _flushes_asked: int = 0
    _flushes_done: int = 0
    _is_behind: bool = False
    _closed: bool = False
    _is_over: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the writer."""
        with suppress(OSError):  # a full disk: rows are dropped and counted until there is room
            self.journal.rotate()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def append(self, work: Work) -> None:
        """Count work and write it to the journal; drop and count its rows when that cannot be."""
        if self.journal.num_rows + work.num_rows > self.max_pending_rows:
            self.journal.count(work)
            is_written = False
        else:
            is_written = self.journal.append(work)
        if not is_written or self.journal.num_open_rows >= self.flush_rows:
            with self._changed:
                self.num_dropped += 0 if is_written else work.num_rows
                self._changed.notify_all()

    def flush(self, *, timeout_s: float = 60.0) -> bool:
        """Write what was appended before this call; return whether all of it is in files."""
        with self._changed:
            self._flushes_asked += 1
            number = self._flushes_asked
            self._changed.notify_all()
            is_done = self._changed.wait_for(lambda: self._is_over or self._flushes_done >= number, timeout_s)
            return is_done and not self._is_behind

    def close(self, *, timeout_s: float = 30.0) -> None:
        """Write what was appended and stop the writer; what it cannot write waits in the journal."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join(timeout_s)
        self.journal.close()

    def counters(self) -> dict[str, int]:
        """Return rows and files written and rows dropped since the server started, and rows that wait."""
        with self._changed:
            return {
                "written_rows": self.num_written,
                "dropped_rows": self.num_dropped,
                "pending_rows": self.journal.num_rows,
                "files": self.num_files,
            }

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._is_due, self.flush_interval_s)
                num_asked, is_last = self._flushes_asked, self._closed
            is_behind = not self._turn_segments()
            with self._changed:
                self._flushes_done, self._is_behind, self._is_over = num_asked, is_behind, is_last
                self._changed.notify_all()
            if is_last:
                return

    def _is_due(self) -> bool:
        is_asked = self._flushes_asked > self._flushes_done
        return self._closed or is_asked or self.journal.num_open_rows >= self.flush_rows

    def _turn_segments(self) -> bool:
        """Turn what was appended so far into files; return whether nothing of it is left."""
        try:
            self.journal.rotate()
            for segment in self.journal.closed_segments():
                self._turn(segment)
        except OSError:
            _LOG.exception("predictions cannot be written to files; %d rows wait", self.journal.num_rows)
            return False
        return True

    def _turn(self, segment: int) -> None:
        """Turn one segment into files, and remove it.

        Raises:
            OSError: The disk does not take them; the segment stays.
        """
        try:
            num_files = self._write_files(segment)
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - it would fail again for ever and keep all later ones from their files
            num_rows = self.journal.set_aside(segment)
            _LOG.exception("segment %d is no predictions; %d rows were set aside", segment, num_rows)
            with self._changed:
                self.num_dropped += num_rows
            return
        num_rows = self.journal.remove(segment)
        with self._changed:
            self.num_written += num_rows
            self.num_files += num_files

    def _write_files(self, segment: int) -> int:
        """Write one file for each model and kind of output; return how many."""
        by_kind: dict[tuple[str, str, int], list[Work]] = defaultdict(list)
        for work in self.journal.read(segment):
            if work.predictions is not None:
                by_kind[work.model, work.output, work.num_classes].append(work)
        for number, ((model, _, _), of_kind) in enumerate(by_kind.items()):
            self._write_file(Path(self.folder_of(model)), f"{segment:020d}-{number}.parquet", of_kind)
        return len(by_kind)

    def _write_file(self, folder: Path, name: str, of_kind: list[Work]) -> None:
        temporary = folder / f".{name}{TEMPORARY_SUFFIX}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.write(_table(of_kind), temporary)
            temporary.replace(folder / name)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _table(done: Sequence[Work]) -> pa.Table:
    """Return work of one model and one kind of output as rows."""
    import pyarrow as pa

    counts = [work.num_rows for work in done]

    def repeat(values: Iterable[Any]) -> list[Any]:
        return list(chain.from_iterable([value] * count for value, count in zip(values, counts, strict=True)))

    example_ids: list[Sequence[str | None]] = [
        work.example_ids or [None] * count for work, count in zip(done, counts, strict=True)
    ]
    predictions = chain.from_iterable(work.predictions or () for work in done)
    columns = {
        "request_id": pa.array(repeat(work.request_id for work in done), pa.string()),
        "example_id": pa.array(list(chain.from_iterable(example_ids)), pa.string()),
        "model_version": pa.array(repeat(work.version for work in done), pa.string()),
        "role": pa.array(repeat(work.role for work in done), pa.string()),
        done[0].output: pa.array(list(predictions), output_type(num_classes=done[0].num_classes)),
        "logged_at": pa.array(repeat(work.logged_at_us for work in done), pa.timestamp("us", tz="UTC")),
    }
    strings = frozenset[str]().union(*(work.strings for work in done))
    for name in dict.fromkeys(chain.from_iterable(work.columns for work in done)):
        # A version of an older spec may lack an input of a newer one while both are served.
        values = (work.columns.get(name) or [None] * count for work, count in zip(done, counts, strict=True))
        kind = pa.string() if name in strings else pa.float64()
        columns[name] = pa.array(list(chain.from_iterable(values)), kind)
    return pa.table(columns)


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    with path.open("xb") as file:
        pq.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())
