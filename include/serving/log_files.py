"""Segments of the journal as Parquet files; `python -m include.serving.log_files --storage ROOT` is who makes them.

A process of its own: what it computes takes no turn of the interpreter that answers requests, and PyArrow's memory is
not the server's. It reads the paths of segments from its standard input, one a line, and answers each with one line of
JSON. It ends when its input does, so it outlives no server.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.lake.storage import Storage
from include.serving.journal import read_segment
from include.tasks.outputs import output_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pyarrow as pa

    from include.serving.counters import Work

_LOG = logging.getLogger(__name__)

TEMPORARY_SUFFIX = ".tmp"
NICENESS = 5
"""Answers come first; with less, the files would fall behind a server that is busy all the time."""


@dataclass(frozen=True, kw_only=True)
class SegmentFiles:
    """Turns segments into files, here and now.

    A file is named after its segment, so that a segment that is turned twice gives the same files.

    Args:
        folder_of: Model -> folder of its Parquet files.
        write: Writes a table to a path; a seam for tests of a full disk.
    """

    folder_of: Callable[[str], str]
    write: Callable[[pa.Table, Path], None] = field(default=lambda table, path: _write(table, path))  # noqa: PLW0108 - defined below

    def turn(self, segment: Path) -> int:
        """Write one file for each model and kind of output; return how many.

        Raises:
            OSError: The disk does not take them.
        """
        by_kind: dict[tuple[str, str, int], list[Work]] = defaultdict(list)
        for work in read_segment(segment):
            if work.predictions:
                by_kind[work.model, work.output, work.num_classes].append(work)
        for number, ((model, _, _), of_kind) in enumerate(by_kind.items()):
            self._write_file(Path(self.folder_of(model)), f"{segment.stem}-{number}.parquet", of_kind)
        return len(by_kind)

    def close(self) -> None:
        """Do nothing: there is no process to end."""

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


@dataclass(kw_only=True)
class SegmentProcess:
    """Has segments turned into files by another process, which starts with the first one and again if it ended.

    Args:
        storage_root: Root of a local lake.
    """

    storage_root: str
    _process: subprocess.Popen[str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def turn(self, segment: Path) -> int:
        """Wait until a segment's files are written; return how many.

        Raises:
            OSError: The disk does not take them, or the process ended.
            ValueError: The segment is no predictions.
        """
        process = self._started()
        if process.stdin is None or process.stdout is None:
            raise OSError("the log's writer has no pipes")
        process.stdin.write(f"{segment}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise OSError(f"the log's writer ended with {process.wait(10)}")
        answer = json.loads(line)
        if "os_error" in answer:
            raise OSError(*answer["os_error"])
        if "error" in answer:
            raise ValueError(answer["error"])
        return int(answer["files"])

    def close(self) -> None:
        """End the process, whatever it is doing; a segment that is not turned stays."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _started(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._process.communicate()  # closes its pipes
                self._process = None
            if self._process is None:
                command = [sys.executable, "-m", "include.serving.log_files", "--storage", self.storage_root]
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **_SMALL}
                )
            return self._process


_SMALL = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
"""Arrow's own allocator keeps what it has once had, and each of its threads an arena."""


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
        "sampling_weight": pa.array(repeat(work.sampling_weight or 1.0 for work in done), pa.float64()),
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


def main(arguments: list[str]) -> int:
    """Turn segments until the input ends; return 0."""
    parser = argparse.ArgumentParser(prog="python -m include.serving.log_files", description=__doc__)
    parser.add_argument("--storage", required=True, help="root of a local lake")
    storage = Storage(root=parser.parse_args(arguments).storage)
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)  # the server, which gets them too, still has segments to be turned
    os.nice(NICENESS)
    gc.disable()  # no segment makes cycles, and looking for them takes twice as long as all the rest
    files = SegmentFiles(folder_of=storage.predictions)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(files, Path(line.rstrip("\n")))) + "\n")
        sys.stdout.flush()
    return 0


def _answer(files: SegmentFiles, segment: Path) -> dict[str, Any]:
    try:
        return {"files": files.turn(segment)}
    except OSError as error:
        return {"os_error": [error.errno, str(error)]}
    except Exception as error:  # noqa: BLE001 - the server sets a segment aside that is no predictions, whatever is wrong with it
        return {"error": repr(error)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
