"""What a day of weather must satisfy before anything downstream sees it; README.md has the reasons."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from include import partitions

if TYPE_CHECKING:
    from include.spec import SourceSpec

_ORIGINS = ["EWR", "JFK", "LGA"]
_MIN_HOURS_FRAC = 0.75
_MIN_GOOD_FRAC = 0.95
_RANGES = {
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
    """Return the expectations of one day of the stations' hourly reports.

    Severity `warning` judges rows, which are quarantined; `critical` judges the day, which is refused. More than 5 % of
    bad rows by one expectation, 3 of the usual 72, refuse the day too.
    """
    import great_expectations.expectations as gxe

    start = partitions.start_of(partition, timezone=source.timezone)
    end = partitions.end_of(partition, timezone=source.timezone)
    num_hours = (end - start) // timedelta(hours=1)  # 23 and 25 on the days of a clock change
    key = list(source.tables[table].primary_key)
    return [
        gxe.ExpectColumnDistinctValuesToContainSet(
            column="origin", value_set=_ORIGINS, severity="critical", description="each airport reports"
        ),
        gxe.ExpectTableRowCountToBeBetween(
            min_value=int(_MIN_HOURS_FRAC * num_hours * len(_ORIGINS)),
            max_value=num_hours * len(_ORIGINS),
            severity="critical",
            description=f"at least {_MIN_HOURS_FRAC:.0%} of the day's {num_hours} hours at the three airports",
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="time_hour",
            min_value=start,
            max_value=end,
            strict_max=True,
            **_row_level("time_hour lies in the local day"),
        ),
        *(
            gxe.ExpectColumnValuesToNotBeNull(column=column, **_row_level(f"{column} is present"))
            for column in ("origin", "time_hour", "temp")
        ),
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=column, min_value=low, max_value=high, **_row_level(f"{column} is {low} to {high} {unit}")
            )
            for column, (low, high, unit) in _RANGES.items()
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="origin", value_set=_ORIGINS, **_row_level(f"origin is one of {', '.join(_ORIGINS)}")
        ),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=key, **_row_level(f"one row for each {', '.join(key)}")),
    ]


def _row_level(description: str) -> dict[str, Any]:
    return {"mostly": _MIN_GOOD_FRAC, "severity": "warning", "description": description}
