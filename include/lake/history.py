"""Since when a table holds each of its partitions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from include.lake.tables import PARTITION_COLUMN

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_COMMITS = 2000


def partition_times(*, uri: str, storage_options: Mapping[str, str]) -> dict[str, datetime]:
    """Return partition -> when its present rows were committed, UTC; no table is an empty answer.

    Only partitions that hold rows, and only what the newest 2,000 commits wrote.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        table = DeltaTable(uri, storage_options=dict(storage_options))
    except TableNotFoundError:
        return {}
    held = {found[PARTITION_COLUMN] for found in table.partitions()}
    times: dict[str, datetime] = {}
    for entry in table.history(_MAX_COMMITS):  # newest first
        partition = entry.get(PARTITION_COLUMN)
        if partition in held and "content_hash" in entry:
            times.setdefault(partition, datetime.fromtimestamp(entry["timestamp"] / 1000, UTC))
    return times
