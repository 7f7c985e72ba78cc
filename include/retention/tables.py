"""Files of Delta tables that no version needs which is pinned, present, or young enough.

The tables' logs stay whole, since they are the record of what each partition held. Files are not removed by delta-rs's
own vacuum, because that commits twice, whether it removes anything or not: a training set would be built from other
table versions than before, and its job would not be found again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from include.drift.monitor import TABLE as PERFORMANCE
from include.features.examples import feature_table
from include.lake.ingest import staged
from include.lake.listing import list_files
from include.serving.batch import TABLE as SCORES
from include.validation.partition import QUARANTINE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deltalake import DeltaTable

    from include.lake.storage import Storage
    from include.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class StaleFiles:
    """Files of one table that may go."""

    table: str
    uris: tuple[str, ...]


def stale_files(
    *, spec: ModelSpec, storage: Storage, pins: Mapping[str, frozenset[int]], before: datetime
) -> Iterator[StaleFiles]:
    """Yield, for each table of a model that has some, the files that may go.

    Args:
        spec: The model.
        storage: The lake.
        pins: Table -> versions that must stay readable, beside the present one.
        before: Versions that were the present one at this moment or later stay readable too.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    for name in _tables(spec):
        uri = storage.table(spec.name, name)
        try:
            table = DeltaTable(uri, storage_options=dict(storage.options))
        except TableNotFoundError:
            continue
        found = table.vacuum(
            retention_hours=0,
            dry_run=True,
            enforce_retention_duration=False,
            full=True,  # what killed writers left behind is in no log
            keep_versions=sorted({*pins.get(name, ()), *_present_since(table, before)}),
        )
        # What is being written at this moment is in no log either.
        there = {file.uri for file in list_files(uri, storage=storage) if file.modified_at < before}
        uris = sorted({f"{uri}/{path}" for path in found} & there)
        if uris:
            yield StaleFiles(table=name, uris=tuple(uris))


def _present_since(table: DeltaTable, before: datetime) -> Iterator[int]:
    """Yield the versions that were the present one at a moment or later."""
    replaced_at: datetime | None = None
    for entry in table.history():  # newest first
        if replaced_at is None or replaced_at >= before:
            yield int(entry["version"])
        replaced_at = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)


def _tables(spec: ModelSpec) -> tuple[str, ...]:
    source = tuple(spec.source.tables)
    views = tuple(feature_table(view) for view in spec.features.store)
    return (*source, *(staged(name) for name in source), *views, QUARANTINE, PERFORMANCE, SCORES)
