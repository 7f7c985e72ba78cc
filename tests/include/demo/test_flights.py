from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest

from include.demo.flights import land_month, month_files
from include.errors import PartitionError

if TYPE_CHECKING:
    from include.lake.storage import Storage


def rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_the_twelve_months_are_the_whole_source() -> None:
    num_flights = num_hours = 0
    for month in range(1, 13):
        files = month_files(f"2013-{month:02d}")
        num_flights += files["flights.csv"].count(b"\n") - 1
        num_hours += files["weather.csv"].count(b"\n") - 1
    assert (num_flights, num_hours) == (336_776, 26_115)


def test_a_month_holds_its_own_rows_by_local_time() -> None:
    files = month_files("2013-02")
    for name, num in (("flights.csv", 24_951), ("weather.csv", 2_010)):
        found = rows(files[name])
        assert len(found) == num
        assert {(row["year"], row["month"]) for row in found} == {("2013", "2")}
        assert {row["origin"] for row in found} == {"EWR", "JFK", "LGA"}


def test_fewer_flights_are_spread_over_the_month_and_the_weather_stays() -> None:
    files = month_files("2013-01", max_flights=310)
    found = rows(files["flights.csv"])
    assert len(found) == 310
    assert {row["day"] for row in found} == {str(day) for day in range(1, 32)}
    assert files["weather.csv"] == month_files("2013-01")["weather.csv"]
    assert month_files("2013-01", max_flights=10**6) == month_files("2013-01")


def test_a_month_that_the_source_lacks_is_refused(storage: Storage) -> None:
    with pytest.raises(PartitionError, match="outside the source"):
        land_month(storage=storage, partition="2014-01")
