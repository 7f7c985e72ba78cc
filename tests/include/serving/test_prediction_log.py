from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.serving.journal import Journal
from include.serving.log_files import SegmentFiles
from include.serving.prediction_log import PredictionLog
from tests.served_work import work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., PredictionLog]]:
    """Return a function that starts a log over the tests' journal, as each server would."""
    made: list[PredictionLog] = []

    def start(**settings: Any) -> PredictionLog:
        journal = Journal(folder=tmp_path / "journal")
        journal.open()
        writing = {"write": settings.pop("write")} if "write" in settings else {}
        files = SegmentFiles(folder_of=lambda model: str(tmp_path / model), **writing)
        log = PredictionLog(journal=journal, **{"turner": files, "flush_interval_s": 60.0, **settings})
        log.start()
        made.append(log)
        return log

    yield start
    for log in made:
        log.close(timeout_s=5)


def rows_of(log: PredictionLog) -> dict[str, int]:
    """Return the log's counters of rows."""
    return {name.removesuffix("_rows"): value for name, value in log.counters().items() if name.endswith("_rows")}


def read(folder: Path) -> pa.Table:
    return pq.read_table(folder).sort_by("example_id")


def test_records_become_typed_rows(tmp_path: Path, make: Callable[..., PredictionLog]) -> None:
    log = make()
    log.append(work(1))
    log.append(work(2, version="2", role="shadow"))
    assert log.flush(timeout_s=10)
    table = read(tmp_path / "m")
    assert table["request_id"].to_pylist() == ["r1", "r1", "r2", "r2"]
    assert table["example_id"].to_pylist() == ["e1-0", "e1-1", "e2-0", "e2-1"]
    assert table["role"].to_pylist() == ["champion", "champion", "shadow", "shadow"]
    assert table["temp"].to_pylist() == [1.5, None, 1.5, None]
    assert str(table.schema.field("logged_at").type) == "timestamp[us, tz=UTC]"
    assert table.schema.field("probability").type == pa.float32()
    assert table.schema.field("carrier").type == pa.string()
    assert table["sampling_weight"].to_pylist() == [1.0] * 4
    assert rows_of(log) == {"written": 4, "dropped": 0, "pending": 0, "sampled": 0}
    assert log.num_files == 1


def test_each_model_has_its_folder_and_versions_may_have_other_inputs(
    tmp_path: Path, make: Callable[..., PredictionLog]
) -> None:
    log = make()
    log.append(work(1))
    log.append(work(2, columns={"carrier": ["AA", "B6"], "wind": [1.0, 2.0]}))
    log.append(work(3, model="other", example_ids=None))
    assert log.flush(timeout_s=10)
    assert read(tmp_path / "m")["wind"].to_pylist() == [None, None, 1.0, 2.0]
    assert read(tmp_path / "other")["example_id"].to_pylist() == [None, None]


def test_enough_rows_are_written_without_being_asked(tmp_path: Path, make: Callable[..., PredictionLog]) -> None:
    log = make(flush_rows=4)
    for number in range(2):
        log.append(work(number))
    with log._changed:
        assert log._changed.wait_for(lambda: log.num_written == 4, timeout=10)


def test_time_alone_writes_rows(make: Callable[..., PredictionLog]) -> None:
    log = make(flush_interval_s=0.05)
    log.append(work())
    with log._changed:
        assert log._changed.wait_for(lambda: log.num_written == 2, timeout=10)


def test_a_full_disk_lets_rows_wait_and_leaves_no_half_file(tmp_path: Path, make: Callable[..., PredictionLog]) -> None:
    is_full = [True]

    def write(table: pa.Table, path: Path) -> None:
        path.write_bytes(b"half a file")
        if is_full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        pq.write_table(table, path)

    log = make(write=write)
    log.append(work(1))
    assert not log.flush(timeout_s=10)
    assert rows_of(log) == {"written": 0, "dropped": 0, "pending": 2, "sampled": 0}
    assert list((tmp_path / "m").iterdir()) == []
    is_full[0] = False
    log.append(work(2))
    assert log.flush(timeout_s=10)
    assert read(tmp_path / "m")["request_id"].to_pylist() == ["r1", "r1", "r2", "r2"]
    assert log.counters()["pending_rows"] == 0


def test_rows_that_are_no_table_keep_no_others_from_their_files(
    tmp_path: Path, make: Callable[..., PredictionLog]
) -> None:
    log = make()
    log.append(work(1, columns={"temp": ["no number", 1.0]}))
    assert log.flush(timeout_s=10)
    log.append(work(2))
    assert log.flush(timeout_s=10)
    assert read(tmp_path / "m")["request_id"].to_pylist() == ["r2", "r2"]
    assert rows_of(log) == {"written": 2, "dropped": 2, "pending": 0, "sampled": 0}
    assert len(list((tmp_path / "journal").glob("*.broken"))) == 1


def test_closing_writes_what_waits_and_drops_what_comes_later(
    tmp_path: Path, make: Callable[..., PredictionLog]
) -> None:
    log = make()
    log.append(work(1))
    log.close(timeout_s=10)
    log.append(work(2))
    assert log.flush(timeout_s=1)
    assert rows_of(log) == {"written": 2, "dropped": 2, "pending": 0, "sampled": 0}
    assert read(tmp_path / "m").num_rows == 2


def test_the_next_process_writes_what_a_killed_one_left(tmp_path: Path, make: Callable[..., PredictionLog]) -> None:
    def die(_table: pa.Table, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    killed = make(write=die)
    for number in range(3):
        killed.append(work(number))
    segment = next((tmp_path / "journal").glob("*.journal"))
    half = segment.read_bytes()[:-5]  # the last frame was being written

    killed.close(timeout_s=5)
    segment.write_bytes(half)

    log = make()
    assert log.counters()["pending_rows"] == 4
    assert log.journal.counters.of("m", revision=1).windows[("1", "champion")].requests == 3  # of the later header
    assert log.flush(timeout_s=10)
    assert read(tmp_path / "m")["request_id"].to_pylist() == ["r0", "r0", "r1", "r1"]


def test_a_segment_that_is_turned_twice_gives_the_same_files(
    tmp_path: Path, make: Callable[..., PredictionLog]
) -> None:
    log = make()
    log.append(work(1))
    (path,) = (tmp_path / "journal").glob("*.journal")
    content = path.read_bytes()
    assert log.flush(timeout_s=10)
    log.close(timeout_s=5)
    path.write_bytes(content)  # killed between the file and the removal of its segment

    assert make().flush(timeout_s=10)
    assert read(tmp_path / "m")["request_id"].to_pylist() == ["r1", "r1"]


def test_each_task_has_a_file_and_a_column_of_its_own(tmp_path: Path, make: Callable[..., PredictionLog]) -> None:
    log = make()
    log.append(work(1, num_rows=1, output="probabilities", num_classes=3, predictions=[[0.5, 0.25, 0.25]]))
    log.append(work(2, num_rows=1, output="prediction", predictions=[-7.5]))
    log.append(work(3, num_rows=1))
    assert log.flush(timeout_s=10)
    found = {}
    for path in (tmp_path / "m").glob("*.parquet"):
        table = pq.read_table(path)
        (output,) = {"probability", "probabilities", "prediction"} & set(table.column_names)
        found[output] = table[output].to_pylist()
    assert found == {"probabilities": [[0.5, 0.25, 0.25]], "prediction": [-7.5], "probability": [0.5]}


class StubbornJournal(Journal):
    """A journal that begins no segment while something is amiss, as when a process may open no more files."""

    is_amiss = False
    num_tries = 0

    def _begin(self, segment: int) -> None:
        if self.is_amiss:
            self.num_tries += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        super()._begin(segment)


def test_a_segment_that_cannot_be_ended_is_tried_at_intervals_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    journal = StubbornJournal(folder=tmp_path / "journal")
    journal.open()
    files = SegmentFiles(folder_of=lambda model: str(tmp_path / model))
    log = PredictionLog(journal=journal, turner=files, flush_rows=10, flush_interval_s=60.0)
    log.start()
    journal.is_amiss = True
    for number in range(6):
        log.append(work(number))  # enough rows for a turn, which fails
    for number in range(20):
        assert not log.flush(timeout_s=10)
        log.append(work(100 + number))
    # Each of 21 turns tries twice; an append that finds twice the rows once, and then again ten rows later.
    assert 40 <= journal.num_tries <= 2 * 21 + 4
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "predictions cannot be written to files" in caplog.messages[0]
    journal.is_amiss = False
    assert log.flush(timeout_s=10)
    assert caplog.messages[1:] == ["predictions are written to files again; 0 rows wait"]
    assert read(tmp_path / "m").num_rows == 2 * 26
    log.close(timeout_s=5)


class Racing(PredictionLog):
    """A log whose sample the writer takes away between two looks at it."""

    is_racing = False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name == "_sample" and found is not None and super().__getattribute__("is_racing"):
            self._sample = None
        return found


def test_counters_are_told_while_the_writer_takes_the_sample_away(tmp_path: Path) -> None:
    journal = Journal(folder=tmp_path / "journal")
    log = Racing(journal=journal, turner=SegmentFiles(folder_of=lambda model: str(tmp_path / model)))
    log.append(work(1))  # to a journal that is not open
    log.is_racing = True
    assert log.counters()["sampled_rows"] == 2
    assert log.counters()["sampled_rows"] == 0
