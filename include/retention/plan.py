"""What may be removed: a pure function of what is there, of the policy, and of `now`.

Something goes only if it is older than its kind's limit, nothing forbids it, and nothing that stays needs it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from include.spec import RetentionSpec


class Kind(StrEnum):
    """What retention looks after."""

    LANDING = "landed partition"
    PREDICTIONS = "file of the prediction log"
    REPORT = "reports of a partition"
    QUARANTINE = "quarantined rows of a partition"
    JOB = "training job"
    SNAPSHOT = "training set"
    VERSION = "registered version"
    RUN = "Dag run"


@dataclass(frozen=True, kw_only=True)
class Held:
    """One thing that is there.

    Args:
        kind: What it is.
        key: What names it: a URI, a version, a partition, or `dag_id run_id`.
        at: When it was last written, or ended, UTC.
        partition: The partition that it belongs to, if it belongs to one.
        needs: What it needs of the others, each as (kind, key).
        pins: Table -> version that must stay readable as long as it stays. None: it could not be read.
    """

    kind: Kind
    key: str
    at: datetime
    partition: str = ""
    needs: frozenset[tuple[Kind, str]] = frozenset()
    pins: Mapping[str, int] | None = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything of one model that retention may touch, and who uses it.

    Args:
        model: The model's name.
        held: What is there.
        in_use: Versions that an alias names, that a server has loaded or routes, or that a roll-back goes to.
        published: Partition -> since when the tables hold it.
        open_partitions: Partitions that the loop has not closed.
        is_training: Whether a training is queued or runs; it may take up any job and any training set.
    """

    model: str
    held: tuple[Held, ...] = ()
    in_use: frozenset[str] = frozenset()
    published: Mapping[str, datetime] = field(default_factory=dict)
    open_partitions: frozenset[str] = frozenset()
    is_training: bool = False


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One thing to remove, and why it may go."""

    kind: Kind
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to remove, and which versions of the tables must stay readable.

    Args:
        removals: In the order in which they are done.
        pins: Table -> versions that stay readable, beside the present one. None: a lock file could not be read, so
            that no version of any table may go.
    """

    removals: tuple[Removal, ...]
    pins: Mapping[str, frozenset[int]] | None


def plan_retention(world: World, policy: RetentionSpec, *, now: datetime) -> Plan:
    """Return what may be removed now.

    Args:
        world: What is there and who uses it.
        policy: Days after which something may go.
        now: The clock, UTC.
    """
    newest = _newest_versions(world.held, count=policy.min_versions)
    going = {
        (item.kind, item.key): item
        for item in world.held
        if _is_old(item, policy, now=now) and not _is_in_use(item, world, newest=newest)
    }
    # What stays may need what was to go, which then stays and may need more.
    staying = [item for item in world.held if (item.kind, item.key) not in going]
    while staying:
        needed = {need for item in staying for need in item.needs}
        staying = [going.pop(need) for need in sorted(needed & going.keys())]
    kept = [item for item in world.held if (item.kind, item.key) not in going]
    removals = [
        Removal(
            kind=item.kind, key=item.key, reason=f"from {item.at:%Y-%m-%d}, {_days(item.kind, policy)} days are kept"
        )
        for item in going.values()
    ]
    order = list(Kind)
    return Plan(removals=tuple(sorted(removals, key=lambda item: (order.index(item.kind), item.key))), pins=_pins(kept))


def _pins(kept: Iterable[Held]) -> dict[str, frozenset[int]] | None:
    found: dict[str, set[int]] = defaultdict(set)
    for item in kept:
        if item.pins is None:
            return None
        for table, version in item.pins.items():
            found[table].add(version)
    return {table: frozenset(versions) for table, versions in found.items()}


def _newest_versions(held: Iterable[Held], *, count: int) -> frozenset[str]:
    versions = sorted((item for item in held if item.kind is Kind.VERSION), key=lambda item: int(item.key))
    return frozenset(item.key for item in versions[-count:])


def _is_old(item: Held, policy: RetentionSpec, *, now: datetime) -> bool:
    days = _days(item.kind, policy)
    return days is not None and now - item.at > timedelta(days=days)


def _days(kind: Kind, policy: RetentionSpec) -> int | None:
    return {
        Kind.LANDING: policy.landing_days,
        Kind.PREDICTIONS: policy.predictions_days,
        Kind.REPORT: policy.reports_days,
        Kind.QUARANTINE: policy.quarantine_days,
        Kind.JOB: policy.trainings_days,
        Kind.SNAPSHOT: policy.trainings_days,
        Kind.VERSION: policy.versions_days,
        Kind.RUN: policy.runs_days,
    }[kind]


def _is_in_use(item: Held, world: World, *, newest: frozenset[str]) -> bool:
    """Return whether something other than what it is needed by forbids its removal."""
    if item.kind is Kind.VERSION:
        return item.key in world.in_use or item.key in newest
    if item.kind in (Kind.JOB, Kind.SNAPSHOT):
        return world.is_training
    if item.partition and item.partition in world.open_partitions:
        return True
    # Landed files that are not, or not all, in the tables are the only copy.
    return item.kind is Kind.LANDING and not (
        item.partition in world.published and world.published[item.partition] >= item.at
    )
