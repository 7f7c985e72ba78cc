"""The process that makes files of the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from include.serving.journal import Journal
from include.serving.log_files import SegmentProcess
from tests.served_work import work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.lake.storage import Storage


@pytest.fixture
def writer(storage: Storage) -> Iterator[SegmentProcess]:
    writer = SegmentProcess(storage_root=storage.root)
    yield writer
    writer.close()


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return a function that makes a segment of a request with two rows."""
    journal = Journal(folder=tmp_path / "journal")
    journal.open()

    def make(number: int, **fields: Any) -> Path:
        journal.rotate()
        journal.append(work(number, **fields))
        journal.rotate()
        return journal.path(journal.closed_segments()[-1])

    yield make
    journal.close()


def test_it_starts_again_after_it_was_killed(
    storage: Storage, writer: SegmentProcess, segment: Callable[..., Path]
) -> None:
    assert writer.turn(segment(1)) == 1
    process = writer._process
    assert process is not None
    process.kill()
    process.wait(10)
    assert writer.turn(segment(2)) == 1
    assert writer._process is not process
    assert sorted(pq.read_table(storage.predictions("m"))["request_id"].to_pylist()) == ["r1", "r1", "r2", "r2"]


def test_it_says_what_is_wrong_and_goes_on(
    storage: Storage, writer: SegmentProcess, segment: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match=r"Arrow(Invalid|TypeError)"):
        writer.turn(segment(1, columns={"temp": ["no number", 1.0]}))
    good = segment(2)
    with pytest.raises(FileNotFoundError):
        writer.turn(good.with_name("gone.journal"))
    assert writer.turn(good) == 1
    assert pq.read_table(storage.predictions("m")).num_rows == 2
