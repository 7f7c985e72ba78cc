"""Every answer in a file before its caller has it: what a `kill -9` leaves of predictions and counters.

A journal is a folder of segments. A segment starts with the counters as they were then; after them comes one frame for
each piece of work. A frame is its length and its CRC-32, four bytes each, little-endian, and its content in
MessagePack. Frames are written to the page cache, one system call each: a process that dies loses none, a machine
that loses its power those of the last seconds.
"""

from __future__ import annotations

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
            return max((self._path(segment).stat().st_mtime for segment in self._rows), default=None)
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

    def count(self, work: Work) -> None:
        """Count a piece of work without writing it down."""
        with self._lock:
            self.counters.add(work)

    def append(self, work: Work) -> bool:
        """Count a piece of work and write it down; return whether it could be written."""
        with self._lock:
            self.counters.add(work)
            try:
                self._write(_ENCODER.encode(work))
            except (OSError, TypeError, ValueError):
                _LOG.exception("work of %r v%s could not be written down", work.model, work.version)
                return False
            self._rows[self._segment] += work.num_rows
            self._num_rows += work.num_rows
            self._is_empty = False
            return True

    def rotate(self) -> None:
        """Begin a segment with the counters as they are now, unless the present one is empty.

        Raises:
            OSError: It cannot be written; the present one goes on.
        """
        with self._lock:
            if self._file is None or not self._is_empty:
                self._begin(max(time.time_ns(), *(segment + 1 for segment in self._rows), 1))
            else:
                os.utime(self._file)  # a sign of life, for the time that no server ran

    @property
    def num_rows(self) -> int:
        """Rows in all segments that are left."""
        return self._num_rows

    @property
    def num_open_rows(self) -> int:
        """Rows in the segment that is written to."""
        return self._rows.get(self._segment, 0)

    def closed_segments(self) -> list[int]:
        """Return the segments that nothing is written to any more, oldest first."""
        found = sorted(int(path.stem) for path in self.folder.glob(f"*{SUFFIX}"))
        return [segment for segment in found if segment != self._segment]

    def read(self, segment: int) -> Iterator[Work]:
        """Yield the work in a segment; it ends at the first frame that is not whole, as a killed process leaves it.

        Raises:
            msgspec.DecodeError: A frame is none of this release.
        """
        for frame in islice(self._frames(segment), 1, None):
            yield _WORK.decode(frame)

    def remove(self, segment: int) -> int:
        """Remove a segment whose work is kept elsewhere, and return its rows; the counters are in the later ones."""
        self._path(segment).unlink(missing_ok=True)
        return self._forget(segment)

    def set_aside(self, segment: int) -> int:
        """Rename a segment that cannot be read to `.broken`, for people to look at; return its rows."""
        self._path(segment).rename(self._path(segment).with_suffix(".broken"))
        _LOG.error("segment %d of journal %s cannot be read; it is set aside", segment, self.folder)
        return self._forget(segment)

    def close(self) -> None:
        """Write nothing more."""
        with self._lock:
            for file in (self._file, self._own):
                if file is not None:
                    os.close(file)
            self._file = self._own = None

    def _forget(self, segment: int) -> int:
        with self._lock:
            num_rows = self._rows.pop(segment, 0)
            self._num_rows -= num_rows
            return num_rows

    def _begin(self, segment: int) -> None:
        path = self._path(segment)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            os.write(file, _framed(self.counters.to_bytes()))
        except OSError:
            os.close(file)
            path.unlink()
            raise
        if self._file is not None:
            os.close(self._file)
        self._file, self._segment, self._is_empty = file, segment, True
        self._rows[segment] = 0

    def _write(self, content: bytes) -> None:
        if self._file is None:
            raise OSError("the journal is closed")
        frame = _framed(content)
        num_written = os.write(self._file, frame)
        if num_written == len(frame):
            return
        os.ftruncate(self._file, os.fstat(self._file).st_size - num_written)
        raise OSError("the disk has no room for a whole frame")

    def _replay(self, segment: int) -> None:
        """Count what a segment says."""
        try:
            for header in islice(self._frames(segment), 1):
                self.counters = RouteCounters.from_bytes(header)
            done = list(self.read(segment))
        except msgspec.DecodeError:
            self.set_aside(segment)
            return
        for work in done:
            self.counters.add(work)
        self._rows[segment] = sum(work.num_rows for work in done)
        self._num_rows += self._rows[segment]

    def _frames(self, segment: int) -> Iterator[bytes]:
        content = self._path(segment).read_bytes()
        at = 0
        while at + _FRAME.size <= len(content):
            length, checksum = _FRAME.unpack_from(content, at)
            frame = content[at + _FRAME.size : at + _FRAME.size + length]
            if len(frame) < length or zlib.crc32(frame) != checksum:
                _LOG.warning("segment %d of journal %s ends at byte %d of %d", segment, self.folder, at, len(content))
                return
            yield frame
            at += _FRAME.size + length

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:0{_DIGITS}d}{SUFFIX}"


def _framed(content: bytes) -> bytes:
    return _FRAME.pack(len(content), zlib.crc32(content)) + content


_ENCODER = msgspec.msgpack.Encoder()
_WORK = msgspec.msgpack.Decoder(Work)
