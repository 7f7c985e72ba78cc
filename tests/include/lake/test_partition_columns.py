from __future__ import annotations

import pytest
from pydantic import ValidationError

from include.spec import TableSpec, load_spec


def table(*names: str) -> TableSpec:
    columns = {"year": "int64", "month": "int64", "name": "string"}
    return TableSpec(file="a.csv", primary_key=["name"], columns=columns, partition_columns=list(names))


@pytest.mark.parametrize("names", [(), ("year", "month")])
def test_none_or_the_year_and_the_month(names: tuple[str, ...]) -> None:
    assert table(*names).partition_columns == names


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("year",), r"must name the int64 columns of the year and of the month; got \['year'\]"),
        (("year", "name"), "must name the int64 columns"),
        (("year", "mnth"), "partition_columns names 'mnth', which is no column; .*Did you mean 'month'"),
    ],
)
def test_anything_else_is_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        table(*names)


def test_flights_and_weather_are_held_to_their_month() -> None:
    tables = load_spec("flight_delays").source.tables
    assert {name: spec.partition_columns for name, spec in tables.items()} == {
        "flights": ("year", "month"),
        "weather": ("year", "month"),
    }
