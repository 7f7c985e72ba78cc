"""What deliveries must satisfy, as far as a sample can say it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.authoring.typed import floats, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.authoring.columns import Column
    from include.authoring.draft import Draft

_MIN_SHARE = 0.8
_MAX_SET = 20


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers that are possible, as Python writes them."""

    low: str
    high: str
    seen: str


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The constants of a model's expectations.py.

    Args:
        required: Columns that no row of the sample lacks, of those that the model needs.
        ranges: Column of numbers -> what is possible.
        sets: Column of the label -> its values, if it is one column with few.
        min_outcome_frac: Share of the rows that must have an outcome.
    """

    required: tuple[str, ...]
    ranges: Mapping[str, Range]
    sets: Mapping[str, tuple[object, ...]]
    min_outcome_frac: float


def limits_of(draft: Draft) -> Limits:
    """Return the limits that the sample suggests, wide enough for what it did not show."""
    used = [f.column for f in draft.inputs.features if f.column]
    needed = dict.fromkeys([*draft.key.columns, draft.event.name, *used])
    columns = [draft.rows.column(name) for name in needed]
    numbers = [c for c in columns if c.is_number and c.name in used and c.num_distinct]
    return Limits(
        required=tuple(column.name for column in columns if not column.num_null),
        ranges={column.name: _range(column, draft) for column in numbers},
        sets=_sets(draft),
        min_outcome_frac=math.floor(100 * _MIN_SHARE * draft.label.present_frac) / 100,
    )


def _range(column: Column, draft: Draft) -> Range:
    import numpy as np

    value_B = floats(draft.rows.rows[column.name])
    low, high = float(np.nanmin(value_B)), float(np.nanmax(value_B))
    margin = max(high - low, abs(high), 1.0)
    least, most = low - margin, high + margin
    if low >= 0:
        least = 0.0
    whole = column.type == "int64"
    return Range(
        low=_shown(math.floor(least), whole=whole),
        high=_shown(math.ceil(most), whole=whole),
        seen=f"{low:g} to {high:g}",
    )


def _shown(value: float, *, whole: bool) -> str:
    return str(int(value)) if whole else repr(float(value))


def _sets(draft: Draft) -> dict[str, tuple[object, ...]]:
    """Return the values of a label that is one column of texts or few numbers: another one would be no outcome."""
    if len(draft.label.columns) != 1 or draft.label.deviation:
        return {}
    (name,) = draft.label.columns
    column = draft.rows.column(name)
    if quoted(name) not in draft.label.sql or column.type == "bool" or column.num_distinct > _MAX_SET:
        return {}
    import pyarrow.compute as pc

    return {name: tuple(sorted(pc.unique(draft.rows.rows[name].combine_chunks()).drop_null().to_pylist()))}
