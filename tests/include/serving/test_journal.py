from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from include.errors import SetupError
from include.serving.journal import Journal, read_segment
from tests import served_work

if TYPE_CHECKING:
    from include.serving.counters import Work

ROOT = Path(__file__).parents[3]
ENDLESS = """
import sys
from include.serving.counters import Work
from include.serving.journal import Journal
from pathlib import Path

journal = Journal(folder=Path(sys.argv[1]))
journal.open()
journal.rotate()
number = 0
while True:
    journal.append(Work(model="m", revision=1, version="1", role="champion", request_id=str(number), example_ids=None,
        latency_ms=1.0, output="p", num_classes=0, predictions=[0.5], columns={"x": ["y" * 400]},
        strings=frozenset({"x"}), logged_at_us=0))
    print(number, flush=True)
    number += 1
    if number % 50 == 0:
        journal.rotate()
"""


def work(number: int = 0, **fields: Any) -> Work:
    """Return work on one row, whose request's id is its number."""
    return served_work.work(number, num_rows=1, **{"request_id": str(number), **fields})


def opened(folder: Path) -> Journal:
    journal = Journal(folder=folder)
    journal.open()
    journal.rotate()
    return journal


def ids(journal: Journal) -> list[str]:
    return [found.request_id for segment in journal.closed_segments() for found in read_segment(journal.path(segment))]


def num_requests(journal: Journal) -> int:
    return sum(window.requests for window in journal.counters.of("m", revision=1).windows.values())


def test_work_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    written = [work(1), work(2, predictions=None, latency_ms=None), work(3, predictions=[[0.25, 0.75]], num_classes=2)]
    for one in written:
        assert journal.append(one)
    journal.rotate()
    (segment,) = journal.closed_segments()
    assert list(read_segment(journal.path(segment))) == written
    assert (journal.num_rows, journal.num_open_rows) == (2, 0)
    assert journal.remove(segment) == 2
    assert (journal.num_rows, journal.closed_segments()) == (0, [])


def test_what_cannot_be_written_is_counted_and_said(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    assert not journal.append(work(columns={"temp": [object()]}))
    journal.close()
    with pytest.raises(OSError, match="the journal is closed"):
        journal.append(work())
    assert num_requests(journal) == 2
    assert journal.num_rows == 0


def test_counters_outlive_segments_that_were_removed(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for number in range(3):
        journal.append(work(number))
        journal.rotate()
    for segment in journal.closed_segments():
        journal.remove(segment)
    journal.append(work(3))
    journal.close()
    again = opened(tmp_path)
    assert num_requests(again) == 4
    assert ids(again) == ["3"]


def test_an_empty_segment_is_kept_and_is_a_sign_of_life(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    (path,) = tmp_path.glob("*.journal")
    os.utime(path, (0, 0))
    journal.rotate()
    assert list(tmp_path.glob("*.journal")) == [path]
    journal.close()
    last_sign_s = Journal(folder=tmp_path).open()
    assert last_sign_s is not None
    assert last_sign_s > 1e9


def test_a_new_folder_has_no_sign_of_life(tmp_path: Path) -> None:
    assert Journal(folder=tmp_path / "new").open() is None
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_a_damaged_frame_ends_its_segment_only(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for number in range(4):
        journal.append(work(number))
        if number == 1:
            journal.rotate()
    journal.close()
    first = min(tmp_path.glob("*.journal"))
    content = bytearray(first.read_bytes())
    content[-3] ^= 0xFF  # in the frame of the second request
    first.write_bytes(content)
    again = opened(tmp_path)
    assert ids(again) == ["0", "2", "3"]
    assert num_requests(again) == 4  # the later header knows the damaged one


def test_work_of_the_release_before_is_counted_and_read(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    fields = list(msgspec.structs.astuple(work(1)))
    journal._write(msgspec.msgpack.encode(fields[:-1]))  # it ended before `is_stand_in`
    journal.close()
    again = opened(tmp_path)
    assert (num_requests(again), ids(again)) == (1, ["1"])


def test_what_stood_in_for_a_canary_is_kept_and_not_counted(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for number in range(2):
        journal.append(work(number, is_stand_in=number > 0))
    journal.close()
    again = opened(tmp_path)
    assert (num_requests(again), ids(again)) == (1, ["0", "1"])


def test_what_another_release_wrote_is_set_aside(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append(work())
    journal._write(b"\x81\xa1a\x01")  # a whole frame of something else
    journal.close()
    again = opened(tmp_path)
    assert (num_requests(again), again.num_rows) == (0, 0)
    assert len(list(tmp_path.glob("*.broken"))) == 1


def test_two_processes_do_not_share_a_journal(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    with pytest.raises(SetupError, match="must belong to one server; got another one that runs"):
        Journal(folder=tmp_path).open()
    journal.close()
    opened(tmp_path).close()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="must be a folder that can be read and written"):
        Journal(folder=tmp_path / "file").open()


def test_a_full_disk_leaves_no_half_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path)
    journal.append(work(1))
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[: len(content) // 2]))
    with pytest.raises(OSError, match="the disk has room for"):
        journal.append(work(2))
    monkeypatch.undo()
    assert journal.append(work(3))
    journal.rotate()
    assert ids(journal) == ["1", "3"]


@pytest.mark.parametrize("after", [1, 137])
def test_kill_minus_nine_loses_nothing_that_was_said(tmp_path: Path, after: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout if line.endswith("\n")]
    journal = opened(tmp_path)
    found = [int(name) for name in ids(journal)]
    assert found[: len(said)] == said
    assert len(found) - len(said) in {0, 1}  # one may have been written and not said
    assert num_requests(journal) == len(found)
