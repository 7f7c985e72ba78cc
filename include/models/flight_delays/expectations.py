"""What a month of flights and weather must satisfy before anything downstream sees it; README.md has the reasons."""

from __future__ import annotations

import calendar
from typing import TYPE_CHECKING, Any

from include import partitions

if TYPE_CHECKING:
    from include.spec import SourceSpec

_ORIGINS = ["EWR", "JFK", "LGA"]
# 5 to 2400 as the source writes local times: hours, then two digits of minutes, without leading zeros.
_CLOCK = r"^(?:[1-5]?\d|(?:1?\d|2[0-3])[0-5]\d|2400)(?:\.0)?$"
_MIN_GOOD_FRAC = 0.95
_MIN_KNOWN_OUTCOME_FRAC = 0.8
_MIN_WEATHER_FRAC = 0.9

_FLIGHT_REQUIRED = ("carrier", "flight", "origin", "dest", "sched_dep_time", "sched_arr_time", "distance", "time_hour")
_FLIGHT_RANGES = {
    "hour": (0, 23, ""),
    "minute": (0, 59, ""),
    "distance": (1, 6000, "miles"),
    "air_time": (1, 1200, "minutes"),
    "dep_delay": (-180, 2880, "minutes"),
    "arr_delay": (-180, 2880, "minutes"),
}
_WEATHER_RANGES = {
    "temp": (-60, 130, "degrees Fahrenheit"),
    "dewp": (-80, 100, "degrees Fahrenheit"),
    "humid": (0, 100, "per cent"),
    "wind_dir": (0, 360, "degrees"),
    "wind_speed": (0, 250, "miles per hour"),
    "wind_gust": (0, 300, "miles per hour"),
    "precip": (0, 12, "inches in an hour"),
    "pressure": (850, 1100, "millibar"),
    "visib": (0, 100, "miles"),
}


def expectations(*, table: str, partition: str, source: SourceSpec) -> list[Any]:
    """Return the expectations of a table of one month.

    Severity `warning` judges rows, which are quarantined; `critical` judges the month, which is refused. More than 5 %
    of bad rows by one expectation refuse the month too.
    """
    year, month = partitions.calendar_parts(partition)
    num_days = calendar.monthrange(year, month)[1]
    key = list(source.tables[table].primary_key)
    if table == "flights":
        return _flights(key=key, num_days=num_days) + _in_month(partition, source=source)
    return _weather(key=key, num_days=num_days) + _in_month(partition, source=source)


def _flights(*, key: list[str], num_days: int) -> list[Any]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnUniqueValueCountToBeBetween(
            column="day", min_value=num_days - 1, severity="critical", description="all days but one have flights"
        ),
        gxe.ExpectColumnValuesToNotBeNull(
            column="arr_delay",
            mostly=_MIN_KNOWN_OUTCOME_FRAC,
            severity="critical",
            description="at least 80 % of the flights have an outcome",
        ),
        *_required(_FLIGHT_REQUIRED),
        *_ranges(_FLIGHT_RANGES),
        *(_matches(column, _CLOCK, "a time of day") for column in ("dep_time", "sched_dep_time")),
        *(_matches(column, _CLOCK, "a time of day") for column in ("arr_time", "sched_arr_time")),
        _matches("carrier", r"^[0-9A-Z]{2}$", "a carrier's two characters"),
        _matches("dest", r"^[A-Z]{3}$", "an airport's three letters"),
        _is_new_york(),
        _unique(key),
    ]


def _weather(*, key: list[str], num_days: int) -> list[Any]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnDistinctValuesToContainSet(
            column="origin", value_set=_ORIGINS, severity="critical", description="each airport has weather"
        ),
        gxe.ExpectTableRowCountToBeBetween(
            min_value=int(_MIN_WEATHER_FRAC * 24 * num_days * len(_ORIGINS)),
            severity="critical",
            description="at least 90 % of the hours of the three airports",
        ),
        *_required(("origin", "time_hour")),
        *_ranges(_WEATHER_RANGES),
        _is_new_york(),
        _unique(key),
    ]


def _in_month(partition: str, *, source: SourceSpec) -> list[Any]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeBetween(
            column="time_hour",
            min_value=partitions.start_of(partition, timezone=source.timezone),
            max_value=partitions.end_of(partition, timezone=source.timezone),
            strict_max=True,
            **_row_level("time_hour lies in the month"),
        )
    ]


def _required(columns: tuple[str, ...]) -> list[Any]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToNotBeNull(column=column, **_row_level(f"{column} is present")) for column in columns
    ]


def _ranges(ranges: dict[str, tuple[int, int, str]]) -> list[Any]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeBetween(
            column=column, min_value=low, max_value=high, **_row_level(f"{column} is {low} to {high} {unit}".strip())
        )
        for column, (low, high, unit) in ranges.items()
    ]


def _matches(column: str, regex: str, what: str) -> Any:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToMatchRegex(column=column, regex=regex, **_row_level(f"{column} is {what}"))


def _is_new_york() -> Any:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeInSet(
        column="origin", value_set=_ORIGINS, **_row_level(f"origin is one of {', '.join(_ORIGINS)}")
    )


def _unique(key: list[str]) -> Any:
    import great_expectations.expectations as gxe

    return gxe.ExpectCompoundColumnsToBeUnique(column_list=key, **_row_level(f"one row for each {', '.join(key)}"))


def _row_level(description: str) -> dict[str, Any]:
    return {"mostly": _MIN_GOOD_FRAC, "severity": "warning", "description": description}
