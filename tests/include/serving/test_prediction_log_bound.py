"""A sink that is full or stuck for long: the journal stays within its bound, and what is lost is known exactly."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from include.serving.journal import Journal
from include.serving.log_files import SegmentFiles, SegmentProcess
from include.serving.prediction_log import MAX_COUNTS_BYTES, PredictionLog
from tests.served_work import work

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

ROOT = Path(__file__).parents[3]
MAX_BYTES = 40_000
NUM_REQUESTS = 3000
"""Several times what fits."""
needs_mounts = pytest.mark.skipif(not shutil.which("unshare"), reason="a small disk needs a mount of its own")
STUCK = """
import sys
from pathlib import Path
from tests.include.serving.test_prediction_log_bound import started
from tests.served_work import work

log = started(Path(sys.argv[1]))
number = 0
while True:
    log.append(work(number))
    number += 1
    if number % 100 == 0:
        print(number, log.counters()["sampled_rows"], flush=True)
"""


class Stuck:
    """A sink that takes nothing while it is full."""

    def __init__(self, folder: Path) -> None:
        self.files = SegmentFiles(folder_of=lambda model: str(folder / model))
        self.is_full = True

    def turn(self, segment: Path) -> int:
        if self.is_full:
            raise OSError("no room")
        return self.files.turn(segment)

    def close(self) -> None:
        """Nothing to end."""


def started(
    folder: Path, *, sink: Path | None = None, max_bytes: int = MAX_BYTES, flush_interval_s: float = 0.02
) -> PredictionLog:
    journal = Journal(folder=folder / "journal")
    journal.open()
    log = PredictionLog(
        journal=journal,
        turner=Stuck(sink or folder),
        max_journal_bytes=max_bytes,
        sample_rows=50,
        flush_interval_s=flush_interval_s,
    )
    log.start()
    return log


def disk_bytes(folder: Path) -> int:
    total = 0
    for path in (folder / "journal").iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def num_counted(log: PredictionLog) -> int:
    return log.journal.counters.of("m", revision=1).windows["1", "champion"].requests


def read(folder: Path) -> pa.Table:
    return pq.read_table(folder / "m")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    log = started(tmp_path)
    yield log
    log.close(timeout_s=10)


def test_beyond_the_bound_a_sample_is_kept_and_losses_are_counted(tmp_path: Path, log: PredictionLog) -> None:
    for number in range(NUM_REQUESTS):
        log.append(work(number))
        assert log.journal.num_bytes < MAX_BYTES + MAX_COUNTS_BYTES + 10_000
    assert disk_bytes(tmp_path) < MAX_BYTES + MAX_COUNTS_BYTES + 10_000
    found = log.counters()
    assert found["written_rows"] == 0
    assert found["sampled_rows"] == 50
    assert found["pending_rows"] + found["dropped_rows"] == 2 * NUM_REQUESTS
    assert found["dropped_rows"] > NUM_REQUESTS
    assert num_counted(log) == NUM_REQUESTS

    log.turner.is_full = False  # type: ignore[attr-defined]
    assert log.flush(timeout_s=20)
    log.append(work(NUM_REQUESTS))
    assert log.flush(timeout_s=20)
    found = log.counters()
    assert (found["pending_rows"], found["sampled_rows"]) == (0, 0)
    assert found["written_rows"] + found["dropped_rows"] == 2 * NUM_REQUESTS + 2
    table = read(tmp_path)
    assert table.num_rows == found["written_rows"]
    weights = table["sampling_weight"].to_pylist()
    assert sum(weights) == pytest.approx(2 * NUM_REQUESTS + 2)  # the kept rows stand for the lost ones
    assert sum(weight > 1 for weight in weights) == 50
    last = table.filter([name == f"r{NUM_REQUESTS}" for name in table["request_id"].to_pylist()])
    assert last["sampling_weight"].to_pylist() == [1.0, 1.0]
    assert num_counted(log) == NUM_REQUESTS + 1


def test_counts_alone_do_not_fill_the_disk(tmp_path: Path, log: PredictionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.serving.prediction_log.MAX_COUNTS_BYTES", 5_000)
    for number in range(NUM_REQUESTS):
        log.append(work(number, columns={"carrier": ["AA"] * 2, "temp": [1.0] * 2}))
    assert disk_bytes(tmp_path) < MAX_BYTES + 15_000
    log.close(timeout_s=10)
    again = Journal(folder=tmp_path / "journal")
    again.open()
    assert again.counters.of("m", revision=1).windows["1", "champion"].requests == NUM_REQUESTS


def test_what_was_sampled_outlives_an_orderly_end(tmp_path: Path, log: PredictionLog) -> None:
    for number in range(NUM_REQUESTS):
        log.append(work(number))
    log.close(timeout_s=10)
    num_dropped = log.counters()["dropped_rows"]
    again = started(tmp_path)
    again.turner.is_full = False  # type: ignore[attr-defined]
    assert again.flush(timeout_s=20)
    again.close(timeout_s=10)
    assert read(tmp_path).num_rows + num_dropped == 2 * NUM_REQUESTS
    assert sum(read(tmp_path)["sampling_weight"].to_pylist()) == pytest.approx(2 * NUM_REQUESTS)
    assert num_counted(again) == NUM_REQUESTS


def test_kill_minus_nine_beyond_the_bound_loses_no_count(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = 0
        for line in process.stdout:
            said, num_sampled = map(int, line.split())
            if num_sampled and said >= NUM_REQUESTS:
                process.send_signal(signal.SIGKILL)
                break
        said = max([said, *(int(line.split()[0]) for line in process.stdout if line.endswith("\n"))])
    journal = Journal(folder=tmp_path / "journal")
    journal.open()
    counted = journal.counters.of("m", revision=1).windows["1", "champion"].requests
    assert said <= counted <= said + 100


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB at a folder, and yield where it is seen from here."""
    folder.mkdir(parents=True)
    mount = f"mount -t tmpfs -o size=256k,nr_inodes=50 tmpfs {folder} && echo ready && cat"
    with subprocess.Popen(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", mount], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as namespace:
        assert namespace.stdin is not None
        assert namespace.stdout is not None
        if namespace.stdout.readline() != b"ready\n":
            pytest.skip("no mounts for this user")
        yield Path(f"/proc/{namespace.pid}/root{folder}")
        namespace.stdin.close()


@needs_mounts
def test_a_disk_that_is_full_for_real(tmp_path: Path) -> None:
    with small_disk(tmp_path / "lake" / "predictions") as disk:
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        journal = Journal(folder=tmp_path / "journal")
        journal.open()
        log = PredictionLog(
            journal=journal,
            turner=SegmentProcess(storage_root=str(disk.parent)),
            max_journal_bytes=MAX_BYTES,
            sample_rows=20,
            flush_interval_s=60,
        )
        log.start()
        for number in range(300):
            log.append(work(number))
        assert not log.flush(timeout_s=60)
        assert log.counters()["sampled_rows"] == 20
        assert [path.name for path in disk.rglob("*.parquet")] == []
        filler.unlink()
        assert log.flush(timeout_s=60)
        (path,) = {file.parent for file in disk.rglob("*.parquet")}
        table = pq.read_table(path)
        log.close(timeout_s=20)
        assert sum(table["sampling_weight"].to_pylist()) == pytest.approx(600)
        assert table.num_rows + log.counters()["dropped_rows"] == 600


def fill(log: PredictionLog) -> int:
    """Append until the journal's disk is full, in segments whose files nobody makes; return how many requests."""
    number = 0
    while not log.counters()["sampled_rows"]:
        log.append(work(number))
        number += 1
        if number % 50 == 0:
            assert not log.flush(timeout_s=20)
        assert number < NUM_REQUESTS
    for more in range(100):
        log.append(work(number + more))
    assert not log.flush(timeout_s=20)
    return number + 100


@needs_mounts
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_journal_whose_disk_is_full_goes_on_when_its_files_are_made(tmp_path: Path, *, is_restarted: bool) -> None:
    with small_disk(tmp_path / "state") as disk:
        log = started(disk, sink=tmp_path, max_bytes=1 << 30, flush_interval_s=60)
        num_requests = fill(log)
        assert len(log.journal.closed_segments()) > 5
        num_dropped = 0
        if is_restarted:
            log.close(timeout_s=20)
            num_dropped = log.counters()["dropped_rows"]
            log = started(disk, sink=tmp_path, max_bytes=1 << 30, flush_interval_s=60)
            assert not log.flush(timeout_s=20)
        log.turner.is_full = False  # type: ignore[attr-defined]
        assert log.flush(timeout_s=20)
        log.append(work(num_requests))
        assert log.flush(timeout_s=20)
        num_dropped += log.counters()["dropped_rows"]
        assert log.counters()["pending_rows"] == 0
        table = read(tmp_path)
        assert table.num_rows + num_dropped == 2 * (num_requests + 1)
        if not is_restarted:  # else the sample found no room at the end
            assert sum(table["sampling_weight"].to_pylist()) == pytest.approx(2 * (num_requests + 1))
            assert num_counted(log) == num_requests + 1
        log.close(timeout_s=20)
