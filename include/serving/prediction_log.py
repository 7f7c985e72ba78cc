"""Served predictions as Parquet files: made from the journal behind the answers, never in their way."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from include.serving.reservoir import WorkSample

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from include.serving.counters import Work
    from include.serving.journal import Journal

_LOG = logging.getLogger(__name__)

MAX_COUNTS_BYTES = 1 << 20
"""Of a segment that only counts."""


class Turner(Protocol):
    """Turns segments into files."""

    def turn(self, segment: Path) -> int:
        """Return how many files a segment gave; OSError: not now; another exception: never."""

    def close(self) -> None:
        """Stop what it is doing."""


@dataclass(kw_only=True)
class PredictionLog:
    """A journal and the thread that has its segments turned into files.

    What is appended is on its way to the disk when the call returns, so a process that is killed loses nothing: the
    next one makes the files. A disk that is slow or full lets segments wait. Beyond `max_journal_bytes`, and while the
    journal cannot be written, each version's rows are sampled in memory instead; when half of the journal is turned,
    or the disk takes it, the sample is written down with its weights, and every row is again. Counters lose nothing by
    that: beyond the bound the journal keeps what counts of each request, without its rows. Requests never wait.

    Args:
        journal: An opened journal.
        turner: Makes the files.
        max_journal_bytes: Bytes that may wait in the journal; a sample and the counters come on top.
        sample_rows: Rows of each version that a sample keeps.
        flush_rows: Rows after which files are written at once.
        flush_interval_s: Most seconds that a row waits.
    """

    journal: Journal
    turner: Turner
    max_journal_bytes: int = 1 << 30
    sample_rows: int = 1000
    flush_rows: int = 20_000
    flush_interval_s: float = 5.0
    num_written: int = 0
    num_dropped: int = 0
    num_files: int = 0
    _sample: WorkSample | None = None
    _resume_bytes: int = 0
    _next_rows: int = 0
    _problem: str = ""
    _flushes_asked: int = 0
    _flushes_done: int = 0
    _is_behind: bool = False
    _closed: bool = False
    _is_over: bool = False
    _is_shut: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _appending: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the writer."""
        with suppress(OSError):  # a full disk: rows are sampled until there is room
            self.journal.rotate()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def append(self, work: Work) -> None:
        """Count work and write it to the journal; of rows that cannot be written, keep a sample."""
        with self._appending:
            num_lost = self._append_all(work) if self._sample is None else self._append_some(work, self._sample)
            if self.journal.num_open_rows >= max(self._next_rows, 2 * self.flush_rows):
                self._relieve()
        if num_lost or self.journal.num_open_rows >= self.flush_rows:
            with self._changed:
                self.num_dropped += num_lost
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
        self.turner.close()
        with self._appending:
            num_lost = self._write_sample()
            num_lost += 0 if self._sample is None else self._sample.num_rows
            self._sample, self._is_shut = None, True
            self.journal.close()
        with self._changed:
            self.num_dropped += num_lost

    def counters(self) -> dict[str, int]:
        """Return rows and files written and rows dropped since the server started, and what waits.

        `sampled_rows` are in memory, a part of `pending_rows`; while there are any, only samples are kept.
        """
        with self._changed:
            sample = self._sample  # the writer may take it away meanwhile
            num_sampled = 0 if sample is None else sample.num_rows
            return {
                "written_rows": self.num_written,
                "dropped_rows": self.num_dropped,
                "pending_rows": self.journal.num_rows + num_sampled,
                "sampled_rows": num_sampled,
                "journal_bytes": self.journal.num_bytes,
                "files": self.num_files,
            }

    def _relieve(self) -> None:
        """Begin a segment while the writer is busy, which reads one as a whole; if it cannot be, not for each row."""
        self._next_rows = 0
        try:
            self.journal.rotate()
        except OSError:
            self._next_rows = self.journal.num_open_rows + self.flush_rows

    def _append_all(self, work: Work) -> int:
        """Write work down, or begin to sample; return how many rows were lost."""
        reason = f"{self.journal.num_bytes} bytes wait for their files"
        is_counted = False
        if self.journal.num_bytes < self.max_journal_bytes:
            try:
                return 0 if self.journal.append(work) else work.num_rows
            except OSError as error:
                reason, is_counted = str(error), True
        if self._is_shut:
            return work.num_rows
        _LOG.error("of predictions, %d rows of each version are kept until there is room: %s", self.sample_rows, reason)
        self._sample = WorkSample(rows=self.sample_rows, seed=self.num_dropped)
        self._resume_bytes = min(self.journal.num_bytes, self.max_journal_bytes) // 2
        with suppress(OSError):
            self.journal.rotate()  # a segment that only counts is removed without being turned
        return self._sample.add(work) if is_counted else self._append_some(work, self._sample)

    def _append_some(self, work: Work, sample: WorkSample) -> int:
        """Write down what counts of work, and sample its rows; return how many rows were lost."""
        with suppress(OSError):  # it is counted all the same, in memory and in the next segment's head
            self.journal.append(_without_rows(work))
            self.journal.rotate(above_bytes=MAX_COUNTS_BYTES)
        return sample.add(work)

    def _write_sample(self) -> int:
        """Write down what was sampled, if the disk lets it, and stop sampling; return how many rows were lost."""
        sample, num_lost = self._sample, 0
        if sample is None:
            return 0
        for number, work in enumerate(sample.kept()):
            try:
                self.journal.append(work)
            except OSError:
                if number == 0:
                    return 0
                num_lost += work.num_rows
        self._sample = None
        _LOG.warning("all predictions are kept again; %d rows were lost", sample.num_lost + num_lost)
        return num_lost

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
        """Return whether to turn segments before the interval is over; after a turn that failed, not for rows."""
        is_asked = self._flushes_asked > self._flushes_done
        is_large = self.journal.num_open_rows >= self.flush_rows
        return self._closed or is_asked or (is_large and not self._is_behind)

    def _turn_segments(self) -> bool:
        """Turn what was appended so far into files; return whether nothing of it is left."""
        try:
            was_sampling = self._sample is not None
            self._turn_all()
            if was_sampling:
                self._turn_all()  # the sample, written down since
        except OSError as error:
            self._tell(f"{type(error).__name__} {error.errno}", error)
            return False
        self._tell("")
        return self._sample is None

    def _tell(self, problem: str, error: OSError | None = None) -> None:
        """Log a change from working to a problem, to another one, or back; no turn that fails like the last one."""
        if problem and problem != self._problem:
            _LOG.error("predictions cannot be written to files; %d rows wait", self.journal.num_rows, exc_info=error)
        elif self._problem and not problem:
            _LOG.warning("predictions are written to files again; %d rows wait", self.journal.num_rows)
        self._problem = problem

    def _turn_all(self) -> None:
        """Turn every segment; where the disk has no room for another one, first those that need no other."""
        try:
            self.journal.rotate()
        except OSError:
            self._turn_each(self.journal.spare_segments())
            self.journal.rotate()
        self._turn_each(self.journal.closed_segments())
        self._resume()

    def _turn_each(self, segments: Iterable[int]) -> None:
        for segment in segments:
            self._turn(segment)
            if self.journal.num_bytes <= self._resume_bytes:
                self._resume()

    def _resume(self) -> None:
        """Keep every row again, if the disk takes what was sampled."""
        if self._sample is None:
            return
        with self._appending:
            num_lost = self._write_sample()
        with self._changed:
            self.num_dropped += num_lost

    def _turn(self, segment: int) -> None:
        """Turn one segment into files, and remove it.

        Raises:
            OSError: The disk does not take them; the segment stays.
        """
        num_files = 0
        if self.journal.num_rows_of(segment):
            try:
                num_files = self.turner.turn(self.journal.path(segment))
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


def _without_rows(work: Work) -> Work:
    """Return what counts of work."""
    predictions = None if work.predictions is None else ()
    return msgspec.structs.replace(work, request_id="", example_ids=None, predictions=predictions, columns={})
