"""Partition keys are calendar months, `YYYY-MM`, in the zone of the model's source."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from include.errors import PartitionError

if TYPE_CHECKING:
    from include.spec import SourceSpec

_KEY = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")
_MONTHS = 12


def shift(key: str, months: int) -> str:
    """Return the key `months` later; negative is earlier.

    >>> shift("2013-01", -1)
    '2012-12'
    """
    year, month = _parse(key)
    index = year * _MONTHS + (month - 1) + months
    return f"{index // _MONTHS:04d}-{index % _MONTHS + 1:02d}"


def window(key: str, num_partitions: int) -> tuple[str, ...]:
    """Return the `num_partitions` keys that end with `key`, oldest first.

    >>> window("2013-03", 3)
    ('2013-01', '2013-02', '2013-03')
    """
    return tuple(shift(key, offset) for offset in range(1 - num_partitions, 1))


def between(first: str, last: str) -> tuple[str, ...]:
    """Return the keys from `first` to `last`, both included; none if `last` is before `first`.

    >>> between("2013-12", "2014-02")
    ('2013-12', '2014-01', '2014-02')
    """
    (first_year, first_month), (last_year, last_month) = _parse(first), _parse(last)
    return window(last, (last_year - first_year) * _MONTHS + last_month - first_month + 1)


def start_of(key: str, *, timezone: str) -> datetime:
    """Return the first instant of a partition, in UTC.

    >>> start_of("2013-02", timezone="America/New_York").isoformat()
    '2013-02-01T05:00:00+00:00'
    """
    year, month = _parse(key)
    return datetime(year, month, 1, tzinfo=ZoneInfo(timezone)).astimezone(UTC)


def end_of(key: str, *, timezone: str) -> datetime:
    """Return the first instant after a partition, in UTC."""
    return start_of(shift(key, 1), timezone=timezone)


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
        PartitionError: It is missing, malformed, or outside the source's partitions.
    """
    last = source.last_partition or "now"
    remedy = (
        f"allowed: YYYY-MM from {source.first_partition} to {last}. Nothing was changed. Trigger with a partition key."
    )
    if not key or key == "None":
        raise PartitionError(f"a run of {model!r} needs a partition key; got none; {remedy}")
    if not _KEY.fullmatch(key):
        raise PartitionError(f"partition key of {model!r} must look like 2013-01; got {key!r}; {remedy}")
    if key < source.first_partition or (source.last_partition and key > source.last_partition):
        raise PartitionError(f"partition {key!r} is outside the source of {model!r}; {remedy}")
    return key


def _parse(key: str) -> tuple[int, int]:
    found = _KEY.fullmatch(key)
    if not found:
        raise PartitionError(f"partition key must look like 2013-01; got {key!r}. Nothing was changed. Name a month.")
    return int(found[1]), int(found[2])
