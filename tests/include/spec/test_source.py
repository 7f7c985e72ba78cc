from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from include.partitions import EXAMPLES
from include.spec import SourceSpec, TableSpec

TABLES = {"a": TableSpec(file="a.csv", primary_key=("id",), columns={"id": "string"})}


def source(**changed: Any) -> SourceSpec:
    given = {"timezone": "UTC", "first_partition": "2013-01", "tables": TABLES, **changed}
    return SourceSpec(**given)


@pytest.mark.parametrize(
    ("grain", "cron"), [("month", "0 0 1 * *"), ("week", "0 0 * * 1"), ("day", "0 0 * * *"), ("hour", "0 * * * *")]
)
def test_a_run_starts_when_its_partition_has_ended(grain: Any, cron: str) -> None:
    assert source(grain=grain, first_partition=EXAMPLES[grain]).schedule == cron


@pytest.mark.parametrize("cron", ["0 6 2 * *", "59 23 28 * *"])
def test_a_later_time_may_be_named(cron: str) -> None:
    assert source(cron=cron).schedule == cron


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"grain": "fortnight"}, "'month', 'week', 'day' or 'hour'"),
        ({"grain": "day"}, "partitions of grain day look like 2013-01-31; got '2013-01'"),
        ({"first_partition": "2013-13"}, "must be in the calendar, as 2013-01, 2013-W05"),
        ({"grain": "day", "first_partition": "2013-02-29"}, "must be in the calendar"),
        ({"last_partition": "2012-12"}, "last_partition 2012-12 must not be before 2013-01"),
        ({"last_partition": "2013-01-31"}, "partitions of grain month look like 2013-01; got '2013-01-31'"),
        ({"timezone": "America/New_Yrok"}, "must be a time zone .* Did you mean 'America/New_York'"),
        ({"timezone": "../etc/passwd"}, "must be a time zone"),
        (
            {"grain": "hour", "first_partition": "2013-01-31T05", "timezone": "America/New_York"},
            "grain hour needs timezone UTC, where each hour comes once a day; got 'America/New_York'",
        ),
        ({"cron": "0 0 * * *"}, "cron must run once for each month: fixed minute, hour and a day from 1 to 28"),
        ({"cron": "0 0 31 * *"}, "cron must run once for each month"),
        ({"cron": "@monthly"}, "cron must run once for each month.* such as '0 0 1"),
        (
            {"grain": "day", "first_partition": "2024-01-01", "timezone": "Africa/Cairo"},
            "cron '0 0 . . .' names a time that Africa/Cairo does not have on 2024-04-26; choose another hour",
        ),
        (
            {"grain": "week", "first_partition": "2024-W01", "timezone": "America/New_York", "cron": "30 2 * * 0"},
            "does not have on 2024-03-10",
        ),
    ],
)
def test_what_cannot_be_scheduled_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        source(**given)


@pytest.mark.parametrize("cron", ["0 5 * * *", "30 23 * * *"])
def test_a_time_that_every_day_has_is_allowed(cron: str) -> None:
    assert source(grain="day", first_partition="2024-01-01", timezone="Africa/Cairo", cron=cron).schedule == cron
