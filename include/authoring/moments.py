"""When an example happened, in which partitions its rows fall, and when its outcome was known."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from include import partitions
from include.authoring.typed import literal, quoted
from include.errors import BadInputError
from include.partitions import KEY_FORMATS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.authoring.columns import Column
    from include.authoring.typed import TypedRows
    from include.partitions import Grain

GRAIN_DAYS: Mapping[Grain, float] = {"month": 31, "week": 7, "day": 1, "hour": 1 / 24}
GOOD_PARTITIONS = 6
"""So many are enough to train, deploy and monitor on."""

MIN_PARTITION_ROWS = 100
_MAKE_ONE = """--sql "SELECT make_timestamp(year, month, day, 0, 0, 0) AS happened_at, * FROM 'sample.csv'"."""
_MAX_NULL_FRAC = 0.05
_MIN_WHOLE_FRAC = 0.5
_MIN_LATER_FRAC = 0.999
_ENDED_AFTER_PARTITIONS = 3
_OF_AN_EVENT = re.compile(r"(^|_)(event|time|timestamp|datetime|date|ts|at|started|start|created|begin|opened)(_|$)")
_OF_AN_END = re.compile(r"end|clos|deliver|drop|arriv|return|updat|modif|birth|expir|due|complet|finish|resol|load")


@dataclass(frozen=True, kw_only=True)
class Partitions:
    """How the rows fall into partitions of one grain.

    Args:
        grain: Length of a partition.
        counts: Rows by partition, oldest first; partitions without rows are absent.
        is_named: Whether a person named the grain.
        cut: The newest partition and its rows, if the sample has only a part of it.
    """

    grain: Grain
    counts: Mapping[str, int]
    is_named: bool = False
    cut: Mapping[str, int] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """What speaks for the grain."""
        is_good = len(self.counts) >= GOOD_PARTITIONS
        but = f"the longest grain that leaves {GOOD_PARTITIONS}" if is_good else "a shorter grain has too few rows"
        seen = f"{len(self.counts)} {self.grain}s of about {median_rows(self.counts):,} rows"
        return f"{seen}; {'you said so' if self.is_named else but}"

    @property
    def first(self) -> str:
        """The oldest partition."""
        return min(self.counts)

    @property
    def num_gaps(self) -> int:
        """How many partitions between the first and the last have no rows."""
        return len(partitions.between(self.first, self.last)) - len(self.counts)

    @property
    def last(self) -> str:
        """The newest partition."""
        return max(self.counts)


def moment_sql(column: Column, *, timezone: str) -> str:
    """Return SQL for a column's point in time."""
    if column.time_format is None:
        return quoted(column.name)
    return f"timezone({literal(timezone)}, strptime({quoted(column.name)}, {literal(column.time_format)}))"


def key_sql(moment: str, *, grain: Grain, timezone: str) -> str:
    """Return SQL for the key of the partition of a point in time."""
    zone = "UTC" if grain == "hour" else timezone
    return f"strftime(timezone({literal(zone)}, {moment}), {literal(KEY_FORMATS[grain])})"


def event_candidates(rows: TypedRows) -> list[Column]:
    """Return the columns that may say when an example happened, the likeliest first.

    Raises:
        BadInputError: There is none.
    """
    found = [c for c in rows.columns if c.is_moment and c.num_null <= _MAX_NULL_FRAC * rows.rows.num_rows]
    if not found:
        raise BadInputError(
            f"a sample must say when each row happened; got no column of times among "
            f"{', '.join(f'{c.name} ({c.type})' for c in rows.columns)}. Nothing was written. Name a column's format, "
            f"--time-format 'column=%d-%b-%y', or make such a column: {_MAKE_ONE}"
        )
    return sorted(found, key=_unlikeliness)


def _unlikeliness(column: Column) -> tuple[bool, bool, int]:
    name = column.name.lower()
    return (bool(_OF_AN_END.search(name)), not _OF_AN_EVENT.search(name), column.num_null)


def partition_counts(rows: TypedRows, *, moment: str, grain: Grain, timezone: str) -> dict[str, int]:
    """Return rows by partition, oldest first."""
    key = key_sql(moment, grain=grain, timezone=timezone)
    found = rows.ask(f"SELECT {key} AS key, count(*) AS n FROM sample GROUP BY ALL ORDER BY key")  # noqa: S608 - ours
    return {key: n for key, n in zip(*found.to_pydict().values(), strict=True) if key is not None}


def choose_grain(rows: TypedRows, *, moment: str, timezone: str, num_whole: int) -> Partitions:
    """Return the longest grain that leaves enough partitions to train on some and watch others.

    Args:
        rows: The sample.
        moment: SQL of the event's time.
        timezone: Zone in which a partition starts and ends.
        num_whole: Rows of the source that one row of the sample stands for.
    """
    found: list[Partitions] = []
    for grain in KEY_FORMATS:  # the longest first
        counts = partition_counts(rows, moment=moment, grain=grain, timezone=timezone)
        found.append(Partitions(grain=grain, counts={key: n * num_whole for key, n in counts.items()}))
        if len(counts) >= GOOD_PARTITIONS:
            break
    dense = [each for each in found if not each.num_gaps and median_rows(each.counts) >= MIN_PARTITION_ROWS]
    return max(dense or found[:1], key=lambda each: (min(len(each.counts), GOOD_PARTITIONS), -GRAIN_DAYS[each.grain]))


def without_cut(found: Partitions, *, is_history: bool, now: datetime, timezone: str) -> Partitions:
    """Return partitions without the newest one if it is not whole: still going on, or with far fewer rows than usual.

    A partition's features are what was known at its end, so one without its end has none.
    """
    *others, last = sorted(found.counts)
    if not others:
        return found
    is_short = found.counts[last] < _MIN_WHOLE_FRAC * median_rows(found.counts)
    is_going_on = partitions.end_of(last, timezone="UTC" if found.grain == "hour" else timezone) > now
    if not (is_short if is_history else is_going_on):
        return found
    return replace(found, counts={key: found.counts[key] for key in others}, cut={last: found.counts[last]})


def has_ended(rows: TypedRows, *, moment: str, grain: Grain, now: datetime) -> bool:
    """Return whether the sample is history: nothing came for some partitions."""
    newest: datetime | None = rows.ask(f"SELECT max({moment}) AS at FROM sample")["at"][0].as_py()  # noqa: S608 - ours
    if newest is None:
        return True
    newest = newest if newest.tzinfo else newest.replace(tzinfo=UTC)
    return now - newest > _ENDED_AFTER_PARTITIONS * timedelta(days=GRAIN_DAYS[grain])


def outcome_times(rows: TypedRows, *, event: Column, timezone: str) -> list[Column]:
    """Return the other columns of times that are hardly ever before the event: when it ended, perhaps."""
    found = []
    at = moment_sql(event, timezone=timezone)
    for column in rows.columns:
        if not column.is_moment or column.name == event.name:
            continue
        other = moment_sql(column, timezone=timezone)
        asked = f"SELECT avg(CAST({other} >= {at} AS INTEGER)) AS later FROM sample"  # noqa: S608 - ours
        later = rows.ask(asked)["later"][0].as_py()
        if later is not None and later >= _MIN_LATER_FRAC:
            found.append(column)
    return found


def median_rows(counts: Mapping[str, int]) -> int:
    """Return the rows of the partition in the middle."""
    ordered = sorted(counts.values())
    return ordered[len(ordered) // 2]
