"""Every answer in a file before its caller has it: what a `kill -9` leaves of predictions and counters.

A journal is a folder of segments. A segment starts with the counters as they were then; after them comes one frame for
each piece of work. A frame is its length and its CRC-32, four bytes each, little-endian, and its content in
MessagePack. Frames are written to the page cache, one system call each: a process that dies loses none, a machine
that loses its power those of the last seconds.

Work that is part of a sample was counted before, in a frame without rows, and is not counted again.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import threading
import time
import zlib
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from include.errors import SetupError
from include.serving.counters import RouteCounters, Work

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOG = logging.getLogger(__name__)

SUFFIX = ".journal"
_FRAME = struct.Struct("<II")
_DIGITS = 20


@dataclass(kw_only=True)
class Journal:
    """Work as it is done, and the counters that it adds up to. Its callers are several threads.

    Args:
        folder: Where the segments are, of this journal alone.
        counters: What the work adds up to; `open` replaces them by what the folder says.
    """

    folder: Path
    counters: RouteCounters = field(default_factory=RouteCounters)
    _segment: int = 0
    _file: int | None = None
    _own: int | None = None
    _is_empty: bool = True
    _rows: dict[int, int] = field(default_factory=dict)
    _num_rows: int = 0
    _bytes: dict[int, int] = field(default_factory=dict)
    _num_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> float | None:
        """Count what an earlier process left; return when it last gave a sign of life, seconds since 1970.

        None: there was none, or another release counted otherwise. Its segments stay until they are removed; what
        cannot be read is set aside.

        Raises:
            SetupError: The folder cannot be used, or another process uses it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._own = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._own, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segments = self.closed_segments()
            for segment in segments:
                self._replay(segment)
            return max((self.path(segment).stat().st_mtime for segment in self._rows), default=None)
        except BlockingIOError as error:
            raise SetupError(
                f"journal {self.folder} must belong to one server; got another one that runs. No port was opened. Stop "
                "that one, or name another state folder."
            ) from error
        except OSError as error:
            raise SetupError(
                f"journal {self.folder} must be a folder that can be read and written; got: {error}. No port was "
                "opened. Mend the folder's rights or the disk."
            ) from error

    def append(self, work: Work) -> bool:
        """Count a piece of work and write it down; return whether it can be: some rows are nothing that one can write.

        Raises:
            OSError: It is counted, and the disk did not take it.
        """
        with self._lock:
            if not work.is_sampled:
                self.counters.add(work)
            try:
                content = _ENCODER.encode(work)
            except (TypeError, ValueError):
                _LOG.exception("work of %r v%s could not be written down", work.model, work.version)
                return False
            self._write(content)
            self._rows[self._segment] += work.num_rows
            self._num_rows += work.num_rows
            self._is_empty = False
            return True

    def rotate(self, *, above_bytes: int = 0) -> None:
        """Begin a segment with the counters as they are now, unless the present one is empty, or not so large.

        A segment without rows is removed when the next one begins, which knows what it counted.

        Raises:
            OSError: It cannot be written; the present one goes on.
        """
        with self._lock:
            if self._file is not None and self._is_empty:
                os.utime(self._file)  # a sign of life, for the time that no server ran
                return
            ended = self._segment
            if self._file is not None and self._bytes.get(ended, 0) < above_bytes:
                return
            self._begin(max(time.time_ns(), *(segment + 1 for segment in self._rows), 1))
            if self._rows.get(ended) == 0:
                self.path(ended).unlink(missing_ok=True)
                self._forget(ended)

    @property
    def num_rows(self) -> int:
        """Rows in all segments that are left."""
        return self._num_rows

    @property
    def num_bytes(self) -> int:
        """Bytes of all segments that are left."""
        return self._num_bytes

    @property
    def num_open_rows(self) -> int:
        """Rows in the segment that is written to."""
        return self._rows.get(self._segment, 0)

    def closed_segments(self) -> list[int]:
        """Return the segments that nothing is written to any more, oldest first."""
        found = sorted(int(path.stem) for path in self.folder.glob(f"*{SUFFIX}"))
        return [segment for segment in found if segment != self._segment]

    def spare_segments(self) -> list[int]:
        """Return the closed segments that may be removed, oldest first: a later one knows what they counted."""
        closed = self.closed_segments()
        return closed if self._file is not None else closed[:-1]

    def num_rows_of(self, segment: int) -> int:
        """Rows in one segment."""
        return self._rows.get(segment, 0)

    def remove(self, segment: int) -> int:
        """Remove a segment whose work is kept elsewhere, and return its rows; the counters are in the later ones."""
        self.path(segment).unlink(missing_ok=True)
        with self._lock:
            return self._forget(segment)

    def set_aside(self, segment: int) -> int:
        """Rename a segment that cannot be read to `.broken`, for people to look at; return its rows."""
        self.path(segment).rename(self.path(segment).with_suffix(".broken"))
        _LOG.error("segment %d of journal %s cannot be read; it is set aside", segment, self.folder)
        with self._lock:
            return self._forget(segment)

    def close(self) -> None:
        """Write nothing more."""
        with self._lock:
            for file in (self._file, self._own):
                if file is not None:
                    os.close(file)
            self._file = self._own = None

    def _forget(self, segment: int) -> int:
        num_rows = self._rows.pop(segment, 0)
        self._num_rows -= num_rows
        self._num_bytes -= self._bytes.pop(segment, 0)
        return num_rows

    def _begin(self, segment: int) -> None:
        path, header = self.path(segment), _framed(self.counters.to_bytes())
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            num_written = os.write(file, header)
            _require_whole(num_written, header)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        if self._file is not None:
            os.close(self._file)
        self._file, self._segment, self._is_empty = file, segment, True
        self._rows[segment] = 0
        self._grow(segment, len(header))

    def _write(self, content: bytes) -> None:
        if self._file is None:
            raise OSError("the journal is closed")
        frame = _framed(content)
        num_written = os.write(self._file, frame)
        if num_written < len(frame):
            os.ftruncate(self._file, os.fstat(self._file).st_size - num_written)
        _require_whole(num_written, frame)
        self._grow(self._segment, num_written)

    def _grow(self, segment: int, num_bytes: int) -> None:
        self._bytes[segment] = self._bytes.get(segment, 0) + num_bytes
        self._num_bytes += num_bytes

    def _replay(self, segment: int) -> None:
        """Count what a segment says."""
        try:
            for header in islice(_frames(self.path(segment)), 1):
                self.counters = RouteCounters.from_bytes(header)
            done = list(read_segment(self.path(segment)))
        except msgspec.DecodeError:
            self.set_aside(segment)
            return
        for work in done:
            if not work.is_sampled:
                self.counters.add(work)
        self._rows[segment] = sum(work.num_rows for work in done)
        self._num_rows += self._rows[segment]
        self._grow(segment, self.path(segment).stat().st_size)

    def path(self, segment: int) -> Path:
        """Return the file of a segment."""
        return self.folder / f"{segment:0{_DIGITS}d}{SUFFIX}"


def read_segment(path: Path) -> Iterator[Work]:
    """Yield the work in a segment; it ends at the first frame that is not whole, as a killed process leaves it.

    Raises:
        msgspec.DecodeError: A frame is none of this release.
    """
    for frame in islice(_frames(path), 1, None):
        yield _WORK.decode(frame)


def _frames(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    at = 0
    while at + _FRAME.size <= len(content):
        length, checksum = _FRAME.unpack_from(content, at)
        frame = content[at + _FRAME.size : at + _FRAME.size + length]
        if len(frame) < length or zlib.crc32(frame) != checksum:
            _LOG.warning("segment %s ends at byte %d of %d", path, at, len(content))
            return
        yield frame
        at += _FRAME.size + length


def _require_whole(num_written: int, content: bytes) -> None:
    if num_written < len(content):
        raise OSError(errno.ENOSPC, f"the disk has room for {num_written} of {len(content)} bytes")


def _framed(content: bytes) -> bytes:
    return _FRAME.pack(len(content), zlib.crc32(content)) + content


_ENCODER = msgspec.msgpack.Encoder()
_WORK = msgspec.msgpack.Decoder(Work)
