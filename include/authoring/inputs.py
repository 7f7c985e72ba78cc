"""Which columns the caller of the model can send, as what, and which are left out for which reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.authoring.columns import feature_name
from include.authoring.keys import looks_like_an_id
from include.authoring.moments import moment_sql
from include.authoring.strength import strength_of
from include.authoring.typed import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa

    from include.authoring.columns import Column
    from include.authoring.labels import Label
    from include.authoring.typed import TypedRows
    from include.spec.fields import Kind

LEAKING = 0.9
"""A column that alone explains this share of the label's loss is the label in disguise."""

SUSPICIOUS = 0.6
_MAX_CATEGORIES = 1_000
_MAX_CATEGORIES_FRAC = 0.2
_MAX_ID_CATEGORIES = 50
_MAX_MISSING_FRAC = 0.95
_CALENDAR = re.compile(r"^(year|yr|month|mon|day|day_of_month|quarter|week|week_of_year)$")
_MIN_HOURS = 6
_MIN_UNLABELLED = 20
_MOST = 0.8


@dataclass(frozen=True, kw_only=True)
class Input:
    """One request feature.

    Args:
        name: As model.yaml and requests have it.
        sql: Its value, in SQL over the file's columns and `_event_at`.
        kind: How the network takes it.
        is_nullable: Whether it may be missing.
        why: How one can tell.
        column: The file's column; None: it is made of the event's time.
    """

    name: str
    sql: str
    kind: Kind
    is_nullable: bool
    why: str
    column: str | None


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A column that is no feature.

    Args:
        column: The file's column.
        why: The reason.
        is_warning: Whether a person should look at it.
    """

    column: str
    why: str
    is_warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The request features and what was left out."""

    features: tuple[Input, ...]
    left_out: tuple[LeftOut, ...]


def choose_inputs(
    rows: TypedRows,
    *,
    label: Label,
    event: Column,
    timezone: str,
    keep: Collection[str] = (),
    leave_out: Collection[str] = (),
) -> Inputs:
    """Return the columns that can be inputs, and the event's hour and day.

    Args:
        rows: The sample.
        label: What is predicted.
        event: The column of the event's time.
        timezone: Zone of the event's hour and day.
        keep: Columns that a person wants, whatever speaks against them.
        leave_out: Columns that a person does not want.
    """
    label_values = rows.values(label.sql)
    features: list[Input] = []
    left_out: list[LeftOut] = []
    for column in rows.columns:
        if column.name in label.columns:
            continue
        reason = _reason_against(column, rows, label=label, label_values=label_values)
        if column.name in leave_out:
            left_out.append(LeftOut(column=column.name, why="you said so"))
        elif reason and column.name not in keep:
            left_out.append(reason)
        else:
            features.append(_feature(column, rows, taken=frozenset(f.name for f in features)))
    features += [f for f in _calendar(rows, event=event, timezone=timezone) if f.name not in {g.name for g in features}]
    return Inputs(features=tuple(features), left_out=tuple(left_out))


def _reason_against(column: Column, rows: TypedRows, *, label: Label, label_values: pa.ChunkedArray) -> LeftOut | None:
    num_rows = rows.rows.num_rows
    if column.is_moment:
        return LeftOut(column=column.name, why="a time; what the model needs of it is made in features.py")
    if column.num_distinct <= 1 and not column.num_null:
        return LeftOut(column=column.name, why="constant")
    if column.num_null > _MAX_MISSING_FRAC * num_rows:
        return LeftOut(column=column.name, why=f"missing in {column.num_null / num_rows:.0%} of the rows")
    if column.mixed:
        return LeftOut(column=column.name, why=f"mixed: {column.mixed}", is_warning=True)
    if column.is_number and _CALENDAR.match(column.name.lower()):
        return LeftOut(column=column.name, why="the calendar; the months to come are not among those to learn from")
    return (
        _names_something(column, num_rows=num_rows)
        or _comes_with_the_outcome(column, rows, label_values=label_values)
        or _leaks(column, rows, label=label, label_values=label_values)
    )


def _names_something(column: Column, *, num_rows: int) -> LeftOut | None:
    """Return why a column is an id: learning it by heart helps with no new one."""
    count = column.num_distinct
    if column.type == "string" and count > min(_MAX_CATEGORIES, _MAX_CATEGORIES_FRAC * num_rows):
        return LeftOut(column=column.name, why=f"{count:,} different texts: an id or free text")
    if column.type == "int64" and looks_like_an_id(column.name) and count > _MAX_ID_CATEGORIES:
        return LeftOut(column=column.name, why=f"{count:,} different numbers, named like an id")
    if column.type == "int64" and count == num_rows:
        return LeftOut(column=column.name, why="another number in each row: an id")
    return None


def _comes_with_the_outcome(column: Column, rows: TypedRows, *, label_values: pa.ChunkedArray) -> LeftOut | None:
    """Return why a column is written with the outcome: it is there where the label is, and missing without it."""
    import pyarrow.compute as pc

    if not column.num_null or label_values.null_count < _MIN_UNLABELLED:
        return None
    without = rows.rows[column.name].filter(pc.is_null(label_values))
    with_label = rows.rows[column.name].filter(pc.is_valid(label_values))
    if without.null_count < _MOST * len(without) or with_label.null_count > (1 - _MOST) * column.num_null:
        return None
    why = f"missing where the label is, there where it is: written with the outcome? If not, --keep {column.name}"
    return LeftOut(column=column.name, why=why, is_warning=True)


def _leaks(column: Column, rows: TypedRows, *, label: Label, label_values: pa.ChunkedArray) -> LeftOut | None:
    strength = strength_of(rows.rows[column.name], label=label_values, task=label.task)
    if strength >= LEAKING:
        why = f"leaks: alone it explains {strength:.0%} of the label; it is known when the outcome is"
        return LeftOut(column=column.name, why=why, is_warning=True)
    if strength >= SUSPICIOUS:
        why = f"alone it explains {strength:.0%} of the label; is it known before? Then --keep {column.name}"
        return LeftOut(column=column.name, why=why, is_warning=True)
    return None


def _feature(column: Column, rows: TypedRows, *, taken: frozenset[str]) -> Input:
    missing = column.num_null / rows.rows.num_rows
    besides = f", {missing:.1%} missing" if missing else ""
    name, sql = feature_name(column.name, taken=taken), quoted(column.name)
    is_code = column.type == "int64" and looks_like_an_id(column.name)
    if column.type == "string" or is_code:
        what = f"{column.num_distinct} categories{besides}"
        sql = f"CAST({sql} AS VARCHAR)" if is_code else sql
        kind: Kind = "categorical"
    else:
        what, kind, sql = f"{column.type}{besides}", "numeric", f"CAST({sql} AS DOUBLE)"
    return Input(name=name, sql=sql, kind=kind, is_nullable=bool(missing), why=what, column=column.name)


def _calendar(rows: TypedRows, *, event: Column, timezone: str) -> list[Input]:
    """Return the hour of the event, if it has one, and its day of the week."""
    local = f"timezone({literal(timezone)}, _event_at)"
    at = f"timezone({literal(timezone)}, {moment_sql(event, timezone=timezone)})"
    asked = f"SELECT count(DISTINCT hour({at})) AS hours, count(DISTINCT dayofweek({at})) AS days FROM sample"  # noqa: S608 - ours
    found = rows.ask(asked).to_pylist()[0]
    names = {column.name.lower() for column in rows.columns}
    features = []
    if found["days"] == 7 and not names & {"day_of_week", "weekday", "dow"}:  # noqa: PLR2004 - days of a week
        sql = f"strftime({local}, '%a')"
        why = f"Mon to Sun, of {event.name}"
        features.append(Input(name="day_of_week", sql=sql, kind="categorical", is_nullable=False, why=why, column=None))
    if found["hours"] >= _MIN_HOURS and not names & {"hour", "hour_of_day"}:
        sql = f"CAST(hour({local}) AS DOUBLE)"
        why = f"0 to 23, of {event.name}"
        features.append(Input(name="hour_of_day", sql=sql, kind="numeric", is_nullable=False, why=why, column=None))
    return features
