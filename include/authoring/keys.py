"""Which columns name a row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from include.authoring.typed import codes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from include.authoring.columns import Column
    from include.authoring.typed import TypedRows

_ID = re.compile(r"(^|_|\b)(id|uuid|guid|key|number|no|nr|code|ref)(_|\b|$)|[a-z](Id|ID)$")
_MAX_COLUMNS = 4
_MAX_CANDIDATES = 12
_FIRST_LOOK = 5_000


@dataclass(frozen=True, kw_only=True)
class Key:
    """Columns that name a row.

    Args:
        columns: Their names.
        num_duplicates: Rows of the sample whose key an earlier row has.
    """

    columns: tuple[str, ...]
    num_duplicates: int


def looks_like_an_id(name: str) -> bool:
    """Return whether a column's name says that it names something.

    >>> [looks_like_an_id(name) for name in ("customer_id", "orderId", "idle")]
    [True, True, False]
    """
    return bool(_ID.search(name) or _ID.search(name.lower()))


def find_key(rows: TypedRows, *, event: str, label: frozenset[str]) -> Key | None:
    """Return the smallest combination of columns that is unique in the sample, ids and the event's time first.

    Args:
        rows: The sample.
        event: The column of the event's time.
        label: Columns that the label is made of; what happened later never names a row.

    Returns:
        None if no combination of up to four columns is unique.
    """
    candidates = _candidates(rows, event=event, label=label)
    encoded = {column.name: codes(rows.rows[column.name]) for column in candidates}
    for size in range(1, _MAX_COLUMNS + 1):
        for names in combinations(encoded, size):
            if is_unique([encoded[name] for name in names]):
                return Key(columns=names, num_duplicates=0)
    return None


def key_of(rows: TypedRows, *, columns: Sequence[str]) -> Key:
    """Return a key that a person named, with its duplicates."""
    encoded = [codes(rows.rows[rows.column(name).name]) for name in columns]
    return Key(columns=tuple(columns), num_duplicates=rows.rows.num_rows - _num_distinct(encoded))


def is_unique(columns: Sequence[np.ndarray]) -> bool:
    """Return whether no two rows agree in all of some columns; a look at the first rows refuses most."""
    num_rows = len(columns[0])
    first = min(_FIRST_LOOK, num_rows)
    return _num_distinct([column[:first] for column in columns]) == first and _num_distinct(columns) == num_rows


def _candidates(rows: TypedRows, *, event: str, label: frozenset[str]) -> list[Column]:
    """Return what may be part of a key: ids, the event's time, texts, whole numbers; no measurement."""
    plausible = [
        column
        for column in rows.columns
        if column.type not in ("float64", "bool")
        and not column.num_null
        and column.num_distinct > 1
        and column.name not in label
        and not (column.is_moment and column.name != event)
    ]

    def rank(column: Column) -> int:
        if looks_like_an_id(column.name):
            return 0
        if column.name == event:
            return 1
        return 2 if column.type == "string" else 3

    return sorted(plausible, key=rank)[:_MAX_CANDIDATES]


def _num_distinct(columns: Sequence[np.ndarray]) -> int:
    import numpy as np

    combined = columns[0].astype(np.int64)
    for column in columns[1:]:
        _, combined = np.unique(combined, return_inverse=True)
        combined = combined * (int(column.max()) + 2) + column
    return len(np.unique(combined))
