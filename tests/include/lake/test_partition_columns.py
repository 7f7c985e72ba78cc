from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from include.spec import ColumnType, SourceSpec, TableSpec, load_spec

if TYPE_CHECKING:
    from include.partitions import Grain


def table(*names: str) -> TableSpec:
    columns: dict[str, ColumnType] = {"year": "int64", "month": "int64", "name": "string"}
    return TableSpec(file="a.csv", primary_key=("name",), columns=columns, partition_columns=names)


@pytest.mark.parametrize("names", [(), ("year",), ("year", "month")])
def test_columns_of_numbers_are_allowed(names: tuple[str, ...]) -> None:
    assert table(*names).partition_columns == names


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("year", "name"), r"partition_columns must name int64 columns; got \['year', 'name'\]"),
        (("year", "mnth"), "partition_columns names 'mnth', which is no column; .*Did you mean 'month'"),
    ],
)
def test_other_columns_are_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        table(*names)


@pytest.mark.parametrize(
    ("grain", "first", "columns"), [("month", "2013-01", "year, month"), ("day", "2013-01-01", "year, month, day")]
)
def test_there_is_one_for_each_part_of_a_key(grain: Grain, first: str, columns: str) -> None:
    with pytest.raises(ValidationError, match=rf"must name those of {columns} for grain {grain}; got \['year'\]"):
        SourceSpec(grain=grain, timezone="UTC", first_partition=first, tables={"a": table("year")})


def test_weeks_have_none() -> None:
    with pytest.raises(ValidationError, match="must name those of no columns for grain week"):
        SourceSpec(grain="week", timezone="UTC", first_partition="2013-W05", tables={"a": table("year", "month")})


def test_flights_and_weather_are_held_to_their_month() -> None:
    tables = load_spec("flight_delays").source.tables
    assert {name: spec.partition_columns for name, spec in tables.items()} == {
        "flights": ("year", "month"),
        "weather": ("year", "month"),
    }
