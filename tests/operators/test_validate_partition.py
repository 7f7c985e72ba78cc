from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from include.demo.flights import month_files
from include.errors import DataQualityError, NotFoundError, ServiceError
from include.lake.landing import land_files
from include.lake.tables import content_hash, current_version, read_table, table_exists
from include.testing.supervisor import FakeSupervisor
from include.testing.tasks import run_task
from operators.assets import dataset_asset
from operators.ingest_partition import IngestPartitionOperator
from operators.validate_partition import DataDocsLink, ValidatePartitionOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from include.lake.storage import Storage

pytestmark = pytest.mark.usefixtures("connections")

MODEL = "flight_delays"
MONTH = "2013-02"
PLACE = {"model": MODEL, "marker": "_SUCCESS"}
ASSET = dataset_asset(MODEL)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return month_files(MONTH, max_flights=600)


def ingest(partition: str = MONTH) -> None:
    run_task(IngestPartitionOperator(task_id="ingest", model=MODEL), partition=partition).returned()


def validate(
    *, earlier: Sequence[dict[str, Any]] = (), run_id: str = "run-1", partition: str = MONTH
) -> dict[str, Any]:
    """Run the operator with the events that Airflow has recorded, and return the extra of the one that it emits."""
    supervisor = FakeSupervisor()
    for extra in earlier:
        supervisor.emit(ASSET.name, ASSET.uri, **extra)
    operator = ValidatePartitionOperator(task_id="validate", model=MODEL)
    result = run_task(operator, partition=partition, run_id=run_id, supervisor=supervisor)
    returned = result.returned()
    (event,) = result.asset_events
    assert (event.name, event.extra) == (ASSET.name, returned)
    return returned


def land(storage: Storage, files: dict[str, bytes], **changed: bytes) -> None:
    named = {f"{name}.csv": content for name, content in changed.items()}
    land_files(storage=storage, partition=MONTH, files={**files, **named}, **PLACE)
    ingest()


def held(storage: Storage, table: str) -> pa.Table:
    return read_table(uri=storage.table(MODEL, table), storage_options={})


def versions(storage: Storage) -> dict[str, int]:
    tables = ("flights", "weather", "quarantine")
    return {name: current_version(uri=storage.table(MODEL, name), storage_options={}) for name in tables}


def edited(csv: bytes, *, line: int, **values: str) -> bytes:
    """Return a file with one line changed (1 is the header)."""
    lines = csv.decode().splitlines()
    names = lines[0].split(",")
    row = dict(zip(names, lines[line - 1].split(","), strict=True)) | values
    lines[line - 1] = ",".join(row[name] for name in names)
    return ("\n".join(lines) + "\n").encode()


def test_a_real_month_is_published_and_announced(storage: Storage, landed: Callable[..., None]) -> None:
    landed("2013-01", 600)
    ingest("2013-01")
    extra = validate(partition="2013-01")
    assert (extra["model"], extra["partition"], extra["num_quarantined"]) == (MODEL, "2013-01", 0)
    assert {table: (at["version"], at["num_rows"]) for table, at in extra["tables"].items()} == {
        "flights": (0, 600),
        "weather": (0, 2226),
    }
    assert content_hash(held(storage, "flights")) == extra["tables"]["flights"]["checksum"]
    assert held(storage, "quarantine").num_rows == 0
    assert json.loads(json.dumps(extra)) == extra


def test_the_one_bad_row_of_the_source_is_quarantined(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files)
    extra = validate()
    (row,) = held(storage, "quarantine").to_pylist()
    assert extra["num_quarantined"] == 1
    assert (row["partition"], row["source_table"]) == (MONTH, "weather")
    assert row["row_key"] == "EWR|2013-02-12T08:00:00+00:00"
    assert row["reason"] == "must hold: wind_speed is 0 to 250 miles per hour"
    assert json.loads(row["row_json"])["wind_speed"] == pytest.approx(1048.36058)
    assert extra["tables"]["weather"]["num_rows"] == 2009


BAD_FLIGHTS = (
    ({"distance": "-5"}, "distance is 1 to 6000 miles"),
    ({"origin": "BOS"}, "origin is one of EWR, JFK, LGA"),
    ({"carrier": "united"}, "carrier is a carrier's two characters"),
    ({"carrier": "NA"}, "carrier is present"),
    ({"sched_dep_time": "1275"}, "sched_dep_time is a time of day"),
    ({"dep_time": "2460"}, "dep_time is a time of day"),
    ({"arr_delay": "90000"}, "arr_delay is -180 to 2880 minutes"),
    ({"hour": "24"}, "hour is 0 to 23"),
    ({"minute": "60", "distance": "0"}, "distance is 1 to 6000 miles; minute is 0 to 59"),
    ({"time_hour": "2012-02-01T10:00:00Z"}, "time_hour lies in the month"),
    ({"time_hour": "2013-03-01T05:00:00Z"}, "time_hour lies in the month"),
)
ODD_FLIGHTS = {
    "cancelled": dict.fromkeys(("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "tailnum"), "NA"),
    "diverted": {"arr_delay": "NA", "air_time": "NA"},
    "unknown categories": {"carrier": "ZZ", "dest": "XYZ", "tailnum": "NEW1"},
    "five past midnight": {"sched_dep_time": "5", "hour": "0", "minute": "5"},
    "midnight": {"dep_time": "2400"},
    "last hour of the month": {"time_hour": "2013-03-01T04:00:00Z"},
}


def test_bad_flights_are_quarantined_with_the_reason(storage: Storage, files: dict[str, bytes]) -> None:
    flights = files["flights.csv"]
    for line, (values, _) in enumerate(BAD_FLIGHTS, start=50):
        flights = edited(flights, line=line, **values)
    land(storage, files, flights=flights)
    extra = validate()
    bad = [row for row in held(storage, "quarantine").to_pylist() if row["source_table"] == "flights"]
    assert sorted(row["reason"] for row in bad) == sorted(f"must hold: {reason}" for _, reason in BAD_FLIGHTS)
    assert extra["tables"]["flights"]["num_rows"] == 600 - len(BAD_FLIGHTS)


def test_odd_flights_are_good_rows(storage: Storage, files: dict[str, bytes]) -> None:
    flights = files["flights.csv"]
    for line, values in enumerate(ODD_FLIGHTS.values(), start=50):
        flights = edited(flights, line=line, **values)
    land(storage, files, flights=flights)
    assert validate()["tables"]["flights"]["num_rows"] == 600


def test_every_row_of_a_key_that_comes_twice_is_quarantined(storage: Storage, files: dict[str, bytes]) -> None:
    twice = files["flights.csv"].splitlines(keepends=True)[9]
    land(storage, files, flights=files["flights.csv"] + twice)
    validate()
    bad = [row for row in held(storage, "quarantine").to_pylist() if row["source_table"] == "flights"]
    assert len(bad) == 2
    assert bad[0]["row_key"] == bad[1]["row_key"]
    assert bad[0]["reason"] == "must hold: one row for each year, month, day, carrier, flight, origin"
    assert held(storage, "flights").num_rows == 599


def without_outcomes(csv: bytes) -> bytes:
    header, *lines = csv.decode().splitlines()
    index = header.split(",").index("arr_delay")
    rows = [line.split(",") for line in lines]
    return "\n".join([header, *(",".join([*r[:index], "NA", *r[index + 1 :]]) for r in rows)]).encode() + b"\n"


def first_days(csv: bytes) -> bytes:
    lines = csv.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith((b"2013,2,27,", b"2013,2,28,")))


@pytest.mark.parametrize(
    ("table", "spoil", "said"),
    [
        ("flights", without_outcomes, "flights: at least 80 % of the flights have an outcome; got 600 of 600 rows"),
        ("flights", first_days, "flights: all days but one have flights; got 26"),
        ("flights", lambda csv: csv.replace(b",JFK,", b",BOS,"), "flights: origin is one of EWR, JFK, LGA; got"),
        (
            "weather",
            lambda csv: b"".join(csv.splitlines(keepends=True)[:1200]),
            "weather: each airport has weather; got",
        ),
        ("weather", lambda csv: csv + csv.split(b"\n", 1)[1], "weather: one row for each origin, time_hour; got 4020"),
    ],
)
def test_a_month_that_is_not_whole_is_refused_before_anything_sees_it(
    storage: Storage, files: dict[str, bytes], table: str, spoil: Callable[[bytes], bytes], said: str
) -> None:
    land(storage, files, **{table: spoil(files[f"{table}.csv"])})
    operator = ValidatePartitionOperator(task_id="validate", model=MODEL, partition=MONTH)
    with pytest.raises(DataQualityError, match="critical expectations") as caught:
        operator.execute({})
    assert said in str(caught.value)
    assert "The published tables are unchanged." in str(caught.value)
    for name in ("flights", "weather", "quarantine"):
        assert not table_exists(uri=storage.table(MODEL, name), storage_options={})
    assert DataDocsLink().get_link(operator, ti_key=None) in str(caught.value)


def test_a_refused_month_leaves_the_published_one(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files)
    validate()
    before = versions(storage)
    land(storage, files, flights=without_outcomes(files["flights.csv"]))
    with pytest.raises(DataQualityError):
        validate()
    assert versions(storage) == before


def test_data_docs_are_kept_and_linked(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files)
    extra = validate()
    index = Path(urlsplit(extra["data_docs"]).path)
    assert index.is_relative_to(storage.report(MODEL, MONTH))
    assert "flights" in index.read_text(encoding="utf-8")
    pages = [path.read_text(encoding="utf-8") for path in index.parent.glob("validations/**/*.html")]
    assert len(pages) == 2
    assert any("wind_speed is 0 to 250 miles per hour" in page for page in pages)


def test_equal_content_is_skipped_once_its_event_is_recorded(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files)
    event = validate()
    before = versions(storage)
    with pytest.raises(AirflowSkipException, match="holds equal content since versions"):
        validate(earlier=[event], run_id="run-2")
    assert versions(storage) == before


def test_equal_content_without_a_recorded_event_is_announced(storage: Storage, files: dict[str, bytes]) -> None:
    """The task was killed after its commits: nothing recorded its success, so its retry or another run announces."""
    land(storage, files)
    lost = validate()
    before = versions(storage)
    assert validate(run_id="run-1") == lost
    assert validate(run_id="run-2", earlier=[{"partition": "2013-01"}, {"from_rest_api": True}]) == lost
    assert versions(storage) == before


def test_news_are_announced_where_airflow_cannot_list_events(storage: Storage, files: dict[str, bytes]) -> None:
    class Unlistable(dict[Any, Any]):
        def __getitem__(self, asset: Any) -> Any:
            raise ServiceError(f"events of {asset.name}: HTTP 500")

    land(storage, files)
    outlet = SimpleNamespace(extra=None)
    context: Any = {"inlet_events": Unlistable(), "outlet_events": {ASSET: outlet}}
    operator = ValidatePartitionOperator(task_id="validate", model=MODEL, partition=MONTH)
    operator.execute(context)
    assert outlet.extra["partition"] == MONTH
    with pytest.raises(ServiceError, match="HTTP 500"):  # equal content: whether it was announced must be known
        operator.execute(context)


def test_other_content_is_announced_as_a_new_version_and_so_is_its_return(
    storage: Storage, files: dict[str, bytes]
) -> None:
    land(storage, files)
    first = validate()
    land(storage, files, flights=edited(files["flights.csv"], line=50, distance="777"))
    second = validate(earlier=[first])
    land(storage, files)
    third = validate(earlier=[first, second])
    assert [event["tables"]["flights"]["version"] for event in (first, second, third)] == [0, 1, 2]
    assert [event["tables"]["weather"]["version"] for event in (first, second, third)] == [0, 0, 0]
    assert first["tables"]["flights"]["checksum"] == third["tables"]["flights"]["checksum"]


def test_a_month_that_was_never_ingested_is_refused() -> None:
    with pytest.raises(NotFoundError, match="must hold partition '2013-02'; got none"):
        validate()


KILLED = """
import os, signal, sys
import include.validation.partition as subject
from operators.validate_partition import ValidatePartitionOperator

write, left = subject.write_partition, int(sys.argv[1])

def write_then_die(**kwargs):
    global left
    commit = write(**kwargs)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return commit

subject.write_partition = write_then_die
ValidatePartitionOperator(task_id="validate", model="flight_delays", partition="2013-02").execute({})
"""


def test_killed_between_two_tables_it_ends_as_if_undisturbed(storage: Storage, files: dict[str, bytes]) -> None:
    land(storage, files)
    killed = subprocess.run([sys.executable, "-c", KILLED, "2"], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert table_exists(uri=storage.table(MODEL, "flights"), storage_options={})
    assert not table_exists(uri=storage.table(MODEL, "weather"), storage_options={})
    extra = validate(run_id="run-1")
    assert versions(storage) == {"flights": 0, "weather": 0, "quarantine": 0}
    assert content_hash(held(storage, "flights")) == extra["tables"]["flights"]["checksum"]
    assert held(storage, "quarantine").num_rows == 1


def test_no_network_is_used(storage: Storage, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*address: object) -> None:
        raise AssertionError(f"connected to {address}")

    land(storage, files)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    validate()


def test_the_task_says_little(
    storage: Storage, files: dict[str, bytes], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    land(storage, files)
    caplog.clear()
    capfd.readouterr()
    validate()
    assert "Calculating Metrics" not in capfd.readouterr().err
    assert [record for record in caplog.records if record.name.startswith("great_expectations")] == []
