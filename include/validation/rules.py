"""Expectations that most tables need, so that a model's expectations.py says only what is its own.

Those that judge rows have severity `warning`: a row that fails is quarantined, and more than 5 % of them refuse the
partition. Those that judge the partition have severity `critical`.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from include import partitions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.spec import SourceSpec

MIN_GOOD_FRAC = 0.95


def row_level(description: str) -> dict[str, Any]:
    """Return the arguments of an expectation that judges rows."""
    return {"mostly": MIN_GOOD_FRAC, "severity": "warning", "description": description}


def required(columns: Sequence[str]) -> list[Any]:
    """Expect a value in each row."""
    import great_expectations.expectations as gxe

    return [gxe.ExpectColumnValuesToNotBeNull(column=column, **row_level(f"{column} is present")) for column in columns]


def ranges(bounds: Mapping[str, tuple[float, float]]) -> list[Any]:
    """Expect numbers from a low to a high one, both included; nothing is no number and passes."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeBetween(
            column=column, min_value=low, max_value=high, **row_level(f"{column} is {low:g} to {high:g}")
        )
        for column, (low, high) in bounds.items()
    ]


def one_of(column: str, values: Sequence[Any]) -> list[Any]:
    """Expect one of some values, or none."""
    import great_expectations.expectations as gxe

    what = f"{column} is one of {', '.join(map(str, values))}"
    return [gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values), **row_level(what))]


def unique(columns: Sequence[str]) -> list[Any]:
    """Expect one row for each key; of several, none is known to be right."""
    import great_expectations.expectations as gxe

    described = row_level(f"one row for each {', '.join(columns)}")
    if len(columns) == 1:
        return [gxe.ExpectColumnValuesToBeUnique(column=columns[0], **described)]
    return [gxe.ExpectCompoundColumnsToBeUnique(column_list=list(columns), **described)]


def mostly_present(column: str, *, least_frac: float) -> list[Any]:
    """Expect that so many rows have a value: an outcome, for example."""
    import great_expectations.expectations as gxe

    described = f"{column} is present in at least {least_frac:.0%} of the rows"
    return [
        gxe.ExpectColumnValuesToNotBeNull(column=column, mostly=least_frac, severity="critical", description=described)
    ]


def in_partition(
    column: str, *, partition: str, source: SourceSpec, time_format: str | None = None, timezone: str | None = None
) -> list[Any]:
    """Expect times of the partition.

    Args:
        column: A timestamp, or a text without a zone.
        partition: The key.
        source: For its time zone.
        time_format: strptime's format of a text; None for a timestamp.
        timezone: Zone of a text; the source's when None.
    """
    import great_expectations.expectations as gxe

    start = partitions.start_of(partition, timezone=source.timezone)
    end = partitions.end_of(partition, timezone=source.timezone)
    described = row_level(f"{column} lies in {partition}")
    if time_format is None:
        return [
            gxe.ExpectColumnValuesToBeBetween(
                column=column, min_value=start, max_value=end, strict_max=True, **described
            )
        ]
    zone = ZoneInfo(timezone or source.timezone)
    step = timedelta(hours=1) if source.grain == "hour" else timedelta(days=1)
    first = start.astimezone(zone).replace(tzinfo=None)
    starts = [first + step * number for number in range(-(-(end - start) // step) + 1)]
    last = end.astimezone(zone).replace(tzinfo=None)
    shown = [_day_pattern(time_format, with_hour=source.grain == "hour", at=at) for at in starts if at < last]
    return [gxe.ExpectColumnValuesToMatchRegex(column=column, regex=f"^(?:{'|'.join(shown)})", **described)]


def _day_pattern(time_format: str, *, with_hour: bool, at: Any) -> str:
    """Return a regular expression for the texts of one day, or of one hour of it.

    >>> from datetime import datetime
    >>> _day_pattern("%Y/%m/%d", with_hour=False, at=datetime(2013, 1, 31))
    '2013/0?1/31'
    """
    last = time_format.index("%H") if "%H" in time_format else len(time_format)
    date = time_format[:last].rstrip(" T")
    wanted = f"{time_format[:last]}%H" if with_hour and "%H" in time_format else date
    found = "".join(_part(part, at) for part in re.findall(r"%.|[^%]+", wanted))
    return found if wanted == time_format or not found[-1].isdigit() else f"{found}(?!\\d)"


def _part(part: str, at: Any) -> str:
    if not part.startswith("%"):
        return re.escape(part)
    text: str = at.strftime(part)
    return f"0?{text[1:]}" if part in ("%d", "%m", "%H") and text.startswith("0") else text
