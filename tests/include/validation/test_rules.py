"""Which texts without a zone lie in a partition."""

import re

import pytest

from include.spec import SourceSpec, load_spec
from include.validation import rules


def source(grain: str, first: str, timezone: str) -> SourceSpec:
    tables = load_spec("airport_weather").source.model_dump()["tables"]
    for table in tables.values():
        table["partition_columns"] = ()
    return SourceSpec.model_validate({"grain": grain, "timezone": timezone, "first_partition": first, "tables": tables})


@pytest.mark.parametrize(
    ("grain", "key", "zone", "time_format", "inside", "outside"),
    [
        ("month", "2024-02", "UTC", "%Y-%m-%d", ["2024-02-01", "2024-02-29"], ["2024-01-31", "2024-03-01"]),
        ("month", "2024-03", "Europe/Berlin", "%d.%m.%Y", ["1.3.2024", "31.03.2024"], ["01.04.2024", "13.2.2024"]),
        ("week", "2024-W01", "UTC", "%m/%d/%Y %H:%M", ["01/01/2024 00:00", "1/7/2024 23:59"], ["01/08/2024 00:00"]),
        ("day", "2024-03-31", "Europe/Berlin", "%Y-%m-%d %H:%M", ["2024-03-31 23:59"], ["2024-04-01 00:00"]),
        ("hour", "2024-01-01T05", "UTC", "%Y-%m-%dT%H:%M:%S", ["2024-01-01T05:59:59"], ["2024-01-01T06:00:00"]),
        ("hour", "2024-01-01T05", "UTC", "%Y-%m-%d %H:%M", ["2024-01-01 05:00"], ["2024-01-01 15:00"]),
    ],
)
def test_a_text_is_in_its_partition_and_in_no_other(
    grain: str, key: str, zone: str, time_format: str, inside: list[str], outside: list[str]
) -> None:
    (expectation,) = rules.in_partition(
        "at", partition=key, source=source(grain, key, zone), time_format=time_format, timezone=zone
    )
    assert [text for text in inside if not re.match(expectation.regex, text)] == []
    assert [text for text in outside if re.match(expectation.regex, text)] == []


def test_an_hour_of_utc_is_found_in_local_texts() -> None:
    found = source("hour", "2024-01-01T05", "UTC")
    (expectation,) = rules.in_partition(
        "at", partition="2024-01-01T05", source=found, time_format="%Y-%m-%d %H:%M", timezone="America/New_York"
    )
    assert re.match(expectation.regex, "2024-01-01 00:30")
    assert not re.match(expectation.regex, "2024-01-01 05:30")


def test_a_key_of_one_column_and_of_several_is_unique() -> None:
    (one,) = rules.unique(["id"])
    (several,) = rules.unique(["id", "at"])
    assert (one.column, several.column_list) == ("id", ["id", "at"])
    assert (one.mostly, one.severity) == (0.95, "warning")
