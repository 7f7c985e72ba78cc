"""`source.cron`: one run for each partition, at a local time that every day of the zone has."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.partitions import Grain

DEFAULTS: dict[Grain, str] = {"month": "0 0 1 * *", "week": "0 0 * * 1", "day": "0 0 * * *", "hour": "0 * * * *"}
"""When a partition of each grain has ended."""

_MINUTE, _HOUR, _DAY_1_TO_28, _WEEKDAY = r"([0-5]?\d)", r"(1?\d|2[0-3])", r"([1-9]|1\d|2[0-8])", r"([0-7])"
_SHAPES: dict[Grain, str] = {
    "month": rf"{_MINUTE} {_HOUR} {_DAY_1_TO_28} \* \*",
    "week": rf"{_MINUTE} {_HOUR} \* \* {_WEEKDAY}",
    "day": rf"{_MINUTE} {_HOUR} \* \* \*",
    "hour": rf"{_MINUTE} \* \* \* \*",
}
_ALLOWED: dict[Grain, str] = {
    "month": "minute, hour and a day from 1 to 28",
    "week": "minute, hour and one weekday",
    "day": "minute and hour",
    "hour": "minute",
}
_YEARS_AHEAD = 20
_SUNDAY = 7
_WEEKS_A_YEAR = 52


@cache
def cron_fault(cron: str, *, grain: Grain, timezone: str, first_year: int) -> str | None:
    """Return why a cron expression cannot start the runs of a source; None if it can.

    Where a clock change skips the time of a run, Airflow moves that run into the next hour, and from there gives the
    partition of the day before to nobody and that of the day itself to two runs.

    >>> cron_fault("30 2 * * *", grain="day", timezone="America/New_York", first_year=2013)
    "'30 2 * * *' names a time that America/New_York does not have on 2013-03-10; choose another hour"
    """
    found = re.fullmatch(_SHAPES[grain], cron)
    if found is None:
        return f"must run once for each {grain}: fixed {_ALLOWED[grain]}, else *, such as {DEFAULTS[grain]!r}"
    if grain == "hour":
        return None
    minute, hour, *day = (int(number) for number in found.groups())
    zone = ZoneInfo(timezone)
    first = datetime(first_year, 1, 1, hour, minute, tzinfo=zone)
    for local in _days_around_changes(first, num_weeks=_WEEKS_A_YEAR * _YEARS_AHEAD):
        if _runs_on(local, grain=grain, day=day[0] if day else 0) and _is_skipped(local):
            return f"{cron!r} names a time that {timezone} does not have on {local:%Y-%m-%d}; choose another hour"
    return None


def _days_around_changes(local: datetime, *, num_weeks: int) -> Iterator[datetime]:
    """Yield the days of each week whose ends differ in their offset from UTC, at one time of day."""
    for _ in range(num_weeks):
        following = local + timedelta(weeks=1)
        if following.utcoffset() != local.utcoffset():
            yield from (local + timedelta(days=day) for day in range(1, 8))
        local = following


def _runs_on(local: datetime, *, grain: Grain, day: int) -> bool:
    return {"month": local.day == day, "week": local.isoweekday() == (day or _SUNDAY)}.get(grain, True)


def _is_skipped(local: datetime) -> bool:
    before, after = local.utcoffset(), local.replace(fold=1).utcoffset()
    return before is not None and after is not None and before < after
