"""What the event of a published partition says, and whether an earlier event has already said it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from include.validation.partition import PublishedPartition


def announcement(*, model: str, partition: str, published: PublishedPartition, data_docs: str) -> dict[str, Any]:
    """Return the event's extra: what was published in which versions; small, and JSON."""
    return {
        "model": model,
        "partition": partition,
        "tables": {
            table: {"version": commit.version, "num_rows": commit.num_rows, "checksum": commit.checksum}
            for table, commit in published.tables.items()
        },
        "num_quarantined": published.quarantine.num_rows,
        "data_docs": data_docs,
    }


def is_announced(extra: Mapping[str, Any], *, earlier: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether the newest earlier event of the partition announced equal content.

    Only the newest counts: content that changed and changed back is news to whoever took the change.

    Args:
        extra: What is to be announced.
        earlier: Extras of the asset's events, oldest first; those without a partition are not ours.
    """
    same = [event for event in earlier if event.get("partition") == extra["partition"]]
    return bool(same) and _checksums(same[-1]) == _checksums(extra)


def _checksums(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {table: held.get("checksum") for table, held in extra.get("tables", {}).items()}
