"""A sample as an upstream system would deliver it: one file a partition, then its marker."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from include.authoring.moments import key_sql
from include.authoring.sources import to_csv
from include.authoring.typed import literal, quoted
from include.features.joins import connect
from include.lake.landing import land_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from include.authoring.columns import Column
    from include.authoring.draft import Draft
    from include.authoring.sources import Source
    from include.lake.storage import Storage
    from include.partitions import Grain

_MARKER = "_SUCCESS"


def count_partitions(source: Source, *, event: Column, grain: Grain, timezone: str) -> dict[str, int]:
    """Return the number of rows of each partition by reading the whole source, oldest first."""
    counts: Counter[str] = Counter()
    for key, rows in _by_partition(source.batches(), event=event, grain=grain, timezone=timezone):
        counts[key] += rows.num_rows
    return dict(sorted(counts.items()))


def land_source(draft: Draft, *, storage: Storage) -> dict[str, int]:
    """Land every partition of a draft's source and return their rows, oldest first. Landing again changes nothing.

    Rows whose time cannot be read are in no partition and are left out, and so is a partition that is not whole.
    """
    counts: Counter[str] = Counter()
    found = _by_partition(
        draft.sample.source.batches(), event=draft.event, grain=draft.partitions.grain, timezone=draft.timezone
    )
    with tempfile.TemporaryDirectory(prefix="tradewind-land-") as aside:
        for key, rows in found:
            if key not in draft.partitions.counts:
                continue
            with (Path(aside) / key).open("ab") as file:
                file.write(to_csv(rows, header=key not in counts))
            counts[key] += rows.num_rows
        for key in sorted(counts):
            files = {draft.file: (Path(aside) / key).read_bytes()}
            land_files(storage=storage, model=draft.name, partition=key, marker=_MARKER, files=files)
    return dict(sorted(counts.items()))


def small_sample(draft: Draft, *, num_partitions: int, num_rows: int) -> Mapping[str, bytes]:
    """Return the largest partitions of what was looked at, thinned out evenly: partition -> its file."""
    import numpy as np

    keys = sorted(draft.partitions.counts, key=lambda key: -draft.partitions.counts[key])[:num_partitions]
    found: dict[str, bytes] = {}
    by_partition = _by_partition(
        [draft.sample.rows], event=draft.event, grain=draft.partitions.grain, timezone=draft.timezone
    )
    for key, rows in by_partition:
        if key in keys:
            chosen = np.unique(np.linspace(0, rows.num_rows - 1, num_rows).astype(int))
            found[key] = to_csv(rows.take(chosen))
    return dict(sorted(found.items()))


def _by_partition(
    batches: Iterator[pa.Table] | Sequence[pa.Table], *, event: Column, grain: Grain, timezone: str
) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of each batch by their partition; a partition comes again with the next batch."""
    import pyarrow.compute as pc

    sql = key_sql(_moment_of_text(event, timezone=timezone), grain=grain, timezone=timezone)
    for batch in batches:
        with connect() as connection:
            connection.register("batch", batch)
            keys = connection.sql(f"SELECT {sql} AS key FROM batch").to_arrow_table()["key"]  # noqa: S608 - ours
        for key in sorted(pc.unique(keys).drop_null().to_pylist()):
            yield key, batch.filter(pc.equal(keys, key))


def _moment_of_text(event: Column, *, timezone: str) -> str:
    """Return SQL for the event's time in rows of text; null where there is none."""
    name = quoted(event.name)
    if event.time_format is None:
        return f"TRY_CAST({name} AS TIMESTAMPTZ)"
    return f"timezone({literal(timezone)}, try_strptime({name}, {literal(event.time_format)}))"
