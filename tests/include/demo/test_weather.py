from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from include import partitions
from include.demo.flights import month_files
from include.demo.weather import day_files, day_requests, days_to_land, land_day
from include.errors import PartitionError

if TYPE_CHECKING:
    from include.lake.storage import Storage


def test_the_days_of_a_month_are_the_month() -> None:
    month = month_files("2013-11")["weather.csv"].splitlines()
    days = [
        line
        for day in partitions.between("2013-11-01", "2013-11-30")
        for line in day_files(day)["weather.csv"].splitlines()[1:]
    ]
    assert sorted(days) == sorted(month[1:])


def test_the_next_days_are_those_that_have_not_landed(storage: Storage) -> None:
    assert days_to_land(storage=storage, num_days=2) == ("2013-01-01", "2013-01-02")
    land_day(storage=storage, partition="2013-01-01")
    assert days_to_land(storage=storage, num_days=2) == ("2013-01-02", "2013-01-03")
    assert len(days_to_land(storage=storage, num_days=1000)) == 363
    with pytest.raises(PartitionError, match="outside the source"):
        land_day(storage=storage, partition="2013-12-31")


def test_callers_ask_each_hour_of_a_day_for_each_airport() -> None:
    requests = day_requests("2013-03-10")
    assert len(requests) == 23
    assert Counter(len(columns["example_id"]) for columns in requests.values()) == {3: 23}
    first = requests["airport_weather-2013-03-10T05Z"]
    assert first["example_id"] == ["EWR-2013-03-10T05Z", "JFK-2013-03-10T05Z", "LGA-2013-03-10T05Z"]
    assert first["hour_of_day"] == ["00", "00", "00"]
    assert "label" not in first


def test_a_report_without_a_temperature_is_not_asked_about() -> None:
    asked = [example for columns in day_requests("2013-08-22").values() for example in columns["example_id"]]
    assert "EWR-2013-08-22T13Z" not in asked
    assert "JFK-2013-08-22T13Z" in asked
