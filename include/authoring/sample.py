"""The rows that inference looks at: all of a small source, every so-many-th of a large one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import BadInputError

if TYPE_CHECKING:
    import pyarrow as pa

    from include.authoring.sources import Source

MAX_ROWS = 200_000
MIN_ROWS = 300
"""Fewer cannot be split into rows to train and enough rows to validate."""

_MIN_TO_THIN = 2


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows of a source, as text.

    Args:
        source: Where they come from.
        rows: The rows that were kept, in the source's order.
        num_rows: How many rows the source has.
        num_whole: How many rows of the source one kept row stands for.
    """

    source: Source
    rows: pa.Table
    num_rows: int
    num_whole: int

    @property
    def is_whole(self) -> bool:
        """Whether every row was kept."""
        return self.num_whole == 1


def take_sample(source: Source, *, max_rows: int = MAX_ROWS) -> Sample:
    """Read a source once and keep at most about `max_rows`, evenly spread, the first one among them.

    Raises:
        BadInputError: There are too few rows, or a value has a line break, which landed files may not have.
    """
    import numpy as np
    import pyarrow as pa

    step = max(1, -(-source.num_rows_hint // max_rows))
    kept, num_rows = [], 0
    for batch in source.batches():
        first = -num_rows % step
        kept.append(batch if step == 1 else batch.take(np.arange(first, batch.num_rows, step)))
        num_rows += batch.num_rows
    if num_rows < MIN_ROWS:
        raise BadInputError(
            f"a sample must have at least {MIN_ROWS} rows, some to train on and some to validate; got {num_rows} from "
            f"{source.origin}. Nothing was written. Name a longer one."
        )
    rows = pa.concat_tables(kept).combine_chunks()
    while step > 1 and rows.num_rows > _MIN_TO_THIN * max_rows:  # the hint was far too low
        rows, step = rows.take(np.arange(0, rows.num_rows, 2)), step * 2
    _require_lines(rows, origin=source.origin)
    return Sample(source=source, rows=rows, num_rows=num_rows, num_whole=step)


def _require_lines(rows: pa.Table, *, origin: str) -> None:
    import pyarrow.compute as pc

    for name in rows.column_names:
        if pc.any(pc.match_substring_regex(rows[name], "[\r\n]")).as_py():
            raise BadInputError(
                f"values of {origin} must be on one line, as landed files need it; got line breaks in column {name!r}. "
                "Nothing was written. Leave the column out or replace its line breaks, for example by --sql."
            )
