"""Partition keys: a month, an ISO week, a day or an hour. A key says its own grain, and keys of one grain sort by time.

Months, weeks and days are local to the source's time zone, so a day of a clock change has 23 or 25 hours. An hour is
one of UTC: local hours are missing on one night of the year and come twice on another.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple
from zoneinfo import ZoneInfo

from include.errors import PartitionError

if TYPE_CHECKING:
    from datetime import tzinfo

    from include.spec import SourceSpec

Grain = Literal["month", "week", "day", "hour"]

EXAMPLES: dict[Grain, str] = {"month": "2013-01", "week": "2013-W05", "day": "2013-01-31", "hour": "2013-01-31T05"}
"""One key of each grain."""

KEY_FORMATS: dict[Grain, str] = {"month": "%Y-%m", "week": "%G-W%V", "day": "%Y-%m-%d", "hour": "%Y-%m-%dT%H"}
"""strftime's format of the keys of each grain, as Airflow and DuckDB write them."""

PER_YEAR: dict[Grain, int] = {"month": 12, "week": 52, "day": 365, "hour": 8760}
"""How many partitions count as one year, wherever a budget is yearly."""

_GRAIN_BY_LENGTH: dict[int, Grain] = {len(example): grain for grain, example in EXAMPLES.items()}
_MONTHS = 12
_HOURS = 24
_DAYS = 7


class _Position(NamedTuple):
    """A key as a number: how many partitions of its grain come before it."""

    grain: Grain
    number: int


def grain_of(key: str) -> Grain:
    """Return the grain that a key has.

    >>> grain_of("2013-W05")
    'week'

    Raises:
        PartitionError: It is no key.
    """
    return _parse(key).grain


def is_key(text: str, *, grain: Grain) -> bool:
    """Return whether a text is a key of a grain, and one that the calendar has.

    >>> is_key("2013-02-28", grain="day"), is_key("2013-02-29", grain="day"), is_key("2013-02", grain="day")
    (True, False, False)
    """
    try:
        return grain_of(text) == grain
    except PartitionError:
        return False


def shift(key: str, num_partitions: int) -> str:
    """Return the key `num_partitions` later; negative is earlier.

    >>> shift("2013-01", -1), shift("2012-W52", 1), shift("2013-02-28", 1), shift("2013-01-31T23", 1)
    ('2012-12', '2013-W01', '2013-03-01', '2013-02-01T00')
    """
    grain, number = _parse(key)
    return _format(_Position(grain, number + num_partitions))


def window(key: str, num_partitions: int) -> tuple[str, ...]:
    """Return the `num_partitions` keys that end with `key`, oldest first.

    >>> window("2013-03", 3)
    ('2013-01', '2013-02', '2013-03')
    """
    grain, last = _parse(key)
    return tuple(_format(_Position(grain, number)) for number in range(last + 1 - num_partitions, last + 1))


def between(first: str, last: str) -> tuple[str, ...]:
    """Return the keys from `first` to `last`, both included; none if `last` is before `first`.

    >>> between("2013-12", "2014-02")
    ('2013-12', '2014-01', '2014-02')

    Raises:
        PartitionError: The two are of different grains.
    """
    (grain, start), (other, end) = _parse(first), _parse(last)
    if grain != other:
        raise PartitionError(
            f"two partition keys must be of one grain; got {first!r}, a {grain}, and {last!r}, a {other}. Nothing was "
            "changed. Name two of the same."
        )
    return window(last, end - start + 1)


def start_of(key: str, *, timezone: str) -> datetime:
    """Return the first instant of a partition, in UTC.

    >>> start_of("2013-02", timezone="America/New_York").isoformat()
    '2013-02-01T05:00:00+00:00'
    """
    zone = _zone(grain_of(key), timezone)
    # Where a clock change skips or repeats midnight, fold=0 is the first instant of the day in both cases.
    return _first_moment(key).replace(tzinfo=zone).astimezone(UTC)


def end_of(key: str, *, timezone: str) -> datetime:
    """Return the first instant after a partition, in UTC."""
    return start_of(shift(key, 1), timezone=timezone)


def key_at(moment: datetime, *, grain: Grain, timezone: str) -> str:
    """Return the key of the partition that holds an aware moment.

    >>> key_at(datetime(2013, 2, 1, 4, 59, tzinfo=UTC), grain="day", timezone="America/New_York")
    '2013-01-31'
    """
    return _format(_position(moment.astimezone(_zone(grain, timezone)), grain))


def calendar_parts(key: str) -> tuple[int, ...]:
    """Return year and month of a key, and the day and the hour (of UTC) if it has them; none for a week.

    >>> calendar_parts("2013-01-31")
    (2013, 1, 31)
    """
    return () if grain_of(key) == "week" else tuple(int(part) for part in re.split(r"[-T]", key))


def available_at(key: str, *, source: SourceSpec, published_at: datetime) -> datetime:
    """Return when the features of a partition could first be served, in UTC.

    With `clock: wall` that is when they were published; with `clock: replay`, `availability_delay_s` after the
    partition ended. Training joins as of this moment, never as of event time alone.
    """
    if source.clock == "wall":
        return published_at.astimezone(UTC)
    return end_of(key, timezone=source.timezone) + timedelta(seconds=source.availability_delay_s)


def require(key: str | None, *, source: SourceSpec, model: str) -> str:
    """Return `key` if it names a partition of the source.

    Raises:
        PartitionError: It is missing, malformed, of another grain, or outside the source's partitions.
    """
    grain = source.grain
    remedy = (
        f"allowed: each {grain}, such as {source.first_partition}, from {source.first_partition} to "
        f"{source.last_partition or 'now'}. Nothing was changed. Trigger with a partition key."
    )
    if not key or key == "None":
        raise PartitionError(
            f"a run of {model!r} needs a partition key; got none; {remedy} A Dag without a schedule takes one with "
            "`schedule=PartitionedAtRuntime()`."
        )
    if not is_key(key, grain=grain):
        raise PartitionError(f"partition key of {model!r} must look like {EXAMPLES[grain]}; got {key!r}; {remedy}")
    if key < source.first_partition or (source.last_partition and key > source.last_partition):
        raise PartitionError(f"partition {key!r} is outside the source of {model!r}; {remedy}")
    return key


def _zone(grain: Grain, timezone: str) -> tzinfo:
    return UTC if grain == "hour" else ZoneInfo(timezone)


def _parse(key: str) -> _Position:
    grain = _GRAIN_BY_LENGTH.get(len(key))
    try:
        found = _position(_first_moment(key), grain) if grain else None
    except ValueError:
        found = None
    # fromisoformat reads other notations too, such as 20130131
    if found is None or _format(found) != key:
        raise PartitionError(
            f"partition key must be a month, a week, a day or an hour, such as {', '.join(EXAMPLES.values())}; got "
            f"{key!r}. Nothing was changed. Name one that the calendar has."
        )
    return found


def _first_moment(key: str) -> datetime:
    """Return when a partition starts on its own clock, without a zone."""
    return datetime.fromisoformat(f"{key}-01" if len(key) == len(EXAMPLES["month"]) else key)


def _position(moment: datetime, grain: Grain) -> _Position:
    """Return where the partition that holds a moment is among those of its grain, by the moment's own clock."""
    day = moment.toordinal()
    numbers: dict[Grain, int] = {
        "month": moment.year * _MONTHS + moment.month - 1,
        "week": (day - 1) // _DAYS,
        "day": day,
        "hour": day * _HOURS + moment.hour,
    }
    return _Position(grain, numbers[grain])


def _format(position: _Position) -> str:
    grain, number = position
    if grain == "month":
        return f"{number // _MONTHS:04d}-{number % _MONTHS + 1:02d}"
    if grain == "week":
        year, week, _ = date.fromordinal(number * _DAYS + 1).isocalendar()
        return f"{year:04d}-W{week:02d}"
    if grain == "day":
        return date.fromordinal(number).isoformat()
    return f"{date.fromordinal(number // _HOURS).isoformat()}T{number % _HOURS:02d}"
