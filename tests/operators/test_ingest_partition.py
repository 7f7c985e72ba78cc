from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.demo.flights import month_files
from include.errors import BadInputError, PartitionError, SchemaError
from include.lake.landing import land_files
from include.lake.tables import current_version, read_table, table_exists
from include.testing.tasks import run_task
from operators.ingest_partition import IngestPartitionOperator

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from include.lake.storage import Storage

pytestmark = pytest.mark.usefixtures("connections")

MONTH = "2013-01"
PLACE = {"model": "flight_delays", "marker": "_SUCCESS"}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return month_files(MONTH, max_flights=400)


def ingest(partition: str | None = MONTH) -> dict:
    operator = IngestPartitionOperator(task_id="ingest", model="flight_delays", partition=partition)
    return run_task(operator, run_id="run-1").returned()


def land(storage: Storage, files: dict[str, bytes], partition: str = MONTH, **changed: bytes) -> None:
    named = {f"{name}.csv": content for name, content in changed.items()}
    land_files(storage=storage, partition=partition, files={**files, **named}, **PLACE)


def held(storage: Storage, table: str = "staged_flights") -> pa.Table:
    return read_table(uri=storage.table("flight_delays", table), storage_options={})


def refused(storage: Storage, said: str, error: type[Exception] = SchemaError) -> None:
    """The operator refuses what has landed, and neither table is touched, though the other file is good."""
    with pytest.raises(error, match=said):
        ingest()
    for table in ("staged_flights", "staged_weather", "flights", "weather"):
        assert not table_exists(uri=storage.table("flight_delays", table), storage_options={})


def test_a_landed_month_becomes_typed_versioned_rows(storage: Storage, landed: Callable[..., None]) -> None:
    landed(MONTH, 400)
    manifest = ingest()
    flights = manifest["tables"]["flights"]
    assert (manifest["model"], manifest["partition"]) == ("flight_delays", MONTH)
    assert (flights["version"], flights["num_rows"], flights["is_new"]) == (0, 400, True)
    assert manifest["tables"]["weather"]["num_rows"] == 2226
    rows = held(storage)
    assert [str(rows.schema.field(name).type) for name in ("dep_time", "carrier", "time_hour", "partition")] == [
        "int64",
        "string",
        "timestamp[us, tz=UTC]",
        "string",
    ]
    assert set(rows["partition"].to_pylist()) == {MONTH}


def test_the_commit_says_where_the_rows_come_from(storage: Storage, landed: Callable[..., None]) -> None:
    from deltalake import DeltaTable

    landed(MONTH, 400)
    checksum = ingest()["tables"]["flights"]["checksum"]
    commit = DeltaTable(storage.table("flight_delays", "staged_flights")).history()[0]
    assert commit["source"] == f"{storage.landing('flight_delays', MONTH)}/flights.csv"
    assert (commit["num_rows"], commit["content_hash"], commit["dag_run_id"]) == ("400", checksum, "run-1")
    assert len(commit["source_sha256"]) == 64


def test_the_same_month_again_makes_no_version(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files)
    first = ingest()
    header, *lines = files["flights.csv"].splitlines(keepends=True)
    land(storage, files, flights=b"".join([header, *reversed(lines)]))
    again = ingest()
    assert again["tables"]["flights"]["is_new"] is False
    assert again["tables"]["flights"]["version"] == first["tables"]["flights"]["version"]
    assert current_version(uri=storage.table("flight_delays", "staged_flights"), storage_options={}) == 0


def test_the_same_month_with_other_content_is_a_new_version(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files)
    ingest()
    shorter = b"".join(files["flights.csv"].splitlines(keepends=True)[:300])
    land(storage, files, flights=shorter)
    again = ingest()
    assert (again["tables"]["flights"]["version"], again["tables"]["flights"]["num_rows"]) == (1, 299)
    assert again["tables"]["weather"]["is_new"] is False
    assert held(storage).num_rows == 299


def test_months_may_come_in_any_order(storage: Storage, landed: Callable[..., None]) -> None:
    landed("2013-02", 400)
    landed("2013-01", 400)
    ingest("2013-02")
    ingest("2013-01")
    assert sorted(set(held(storage)["partition"].to_pylist())) == ["2013-01", "2013-02"]


def test_without_the_marker_the_month_is_refused(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files)
    (Path(storage.landing("flight_delays", MONTH)) / "_SUCCESS").unlink()
    refused(storage, "needs its marker '_SUCCESS', which is written last; got none", BadInputError)


def test_a_missing_file_is_refused(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, {"flights.csv": files["flights.csv"]})
    refused(storage, "got none named 'weather.csv'", BadInputError)


def test_a_truncated_file_is_refused(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files, weather=files["weather.csv"][:-30])
    refused(storage, r"weather.csv' must end with a newline; got a cut line 2227")


def test_a_file_cut_after_its_marker_was_written_is_refused(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files)
    path = Path(storage.landing("flight_delays", MONTH)) / "flights.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:200]))
    refused(storage, "must have the SHA-256 that its marker lists", BadInputError)


@pytest.mark.parametrize("content", [b"PAR1\x15\x04\x00\x00binary", b"\x89PNG\r\n\x1a\n\x00"])
def test_a_file_that_is_no_csv_is_refused(storage: Storage, files: dict[str, bytes], content: bytes) -> None:
    land(storage, files, flights=content)
    refused(storage, "flights.csv' must be CSV in UTF-8; got byte")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((b",carrier,", b",airline,"), "got no 'carrier', undeclared 'airline'"),
        ((b"tailnum", b"tail_num"), r"got no 'tailnum' \(renamed to 'tail_num'\?\)"),
        ((b"year,", b"id,year,"), "got undeclared 'id'"),
    ],
)
def test_other_columns_are_refused(
    storage: Storage, files: dict[str, bytes], change: tuple[bytes, bytes], said: str
) -> None:
    header, rest = files["flights.csv"].split(b"\n", 1)
    land(storage, files, flights=header.replace(*change) + b"\n" + rest)
    refused(storage, said)


def test_a_missing_column_is_refused(storage: Storage, files: dict[str, bytes]) -> None:
    lines = [line.rsplit(b",", 1)[0] + b"\n" for line in files["flights.csv"].splitlines()]
    land(storage, files, flights=b"".join(lines))
    refused(storage, "header of file .*flights.csv' must name the columns .*; got no 'time_hour'")


def test_a_wrong_type_is_refused_with_file_column_line_value_and_count(
    storage: Storage, files: dict[str, bytes]
) -> None:
    lines = files["flights.csv"].splitlines(keepends=True)
    for index in (7, 11):
        fields = lines[index].split(b",")
        lines[index] = b",".join([*fields[:15], b"far", *fields[16:]])
    land(storage, files, flights=b"".join(lines))
    refused(storage, r"flights.csv' .* column 'distance' \(int64\): 2 other values, the first on line 8: 'far'")


def test_an_empty_month_is_refused(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files, flights=files["flights.csv"].split(b"\n", 1)[0] + b"\n")
    refused(storage, "flights.csv' must hold at least one row; got its header alone")


def test_another_months_rows_are_refused(storage: Storage, files: dict[str, bytes]) -> None:
    land(
        storage,
        files,
        flights=files["flights.csv"] + month_files("2013-02", max_flights=3)["flights.csv"].split(b"\n", 1)[1],
    )
    refused(
        storage,
        r"must hold rows of 2013-01 alone; got 3 of 403 rows of other partitions, the first on line 402: .*'month': 2",
    )


def test_a_bad_month_leaves_the_good_one_before_it(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files)
    ingest()
    land(storage, files, flights=b"no,csv\n1,2\n")
    with pytest.raises(SchemaError):
        ingest()
    assert held(storage).num_rows == 400
    assert current_version(uri=storage.table("flight_delays", "staged_weather"), storage_options={}) == 0


@pytest.mark.parametrize("partition", [None, "None", "January", "2012-12", "2014-01"])
def test_a_partition_that_the_source_lacks_is_refused(partition: str | None) -> None:
    with pytest.raises(PartitionError, match="allowed: each month, such as 2013-01, from 2013-01 to 2013-12"):
        ingest(partition)


KILLED = """
import os, signal
import include.lake.ingest as subject
from include.testing.tasks import run_task
from operators.ingest_partition import IngestPartitionOperator

write = subject.write_partition

def write_then_die(**kwargs):
    write(**kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

subject.write_partition = write_then_die
IngestPartitionOperator(task_id="ingest", model="flight_delays", partition="2013-01").execute({})
"""


def test_killed_between_two_tables_it_ends_as_if_undisturbed(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files)
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not table_exists(uri=storage.table("flight_delays", "staged_weather"), storage_options={})
    tables = ingest()["tables"]
    assert {name: (at["version"], at["is_new"]) for name, at in tables.items()} == {
        "flights": (0, False),
        "weather": (0, True),
    }
    assert held(storage).num_rows == 400
