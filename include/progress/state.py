"""How far each partition of a model has come, and what keeps one from going on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class Stage(StrEnum):
    """What a partition reaches, in this order; `trained` and `deployed` only if its data was worth a training."""

    LANDED = "landed"
    INGESTED = "ingested"
    MATERIALIZED = "materialized"
    DECIDED = "decided"
    TRAINED = "trained"
    DEPLOYED = "deployed"
    CLOSED = "closed"


class Reason(StrEnum):
    """Why the next stage has not followed; docs/pages/stuck.md explains each."""

    LANDING_LATE = "landing late"
    TASK_FAILED = "task failed"
    DAG_PAUSED = "Dag paused"
    RUN_QUEUED = "run queued"
    RUN_SLOW = "run slow"
    EVENT_LOST = "event lost"
    APPROVAL = "waiting for approval"
    NO_TRAFFIC = "canary without traffic"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """What keeps a partition from its next stage.

    Args:
        stage: The stage that has not followed within its limit.
        since: When the partition began to wait for it, UTC.
        reason: Why, in one of a few words.
        detail: Why, in a sentence: which task, which Dag, which version.
        command: What frees it: a command line, or what to press.
        url: Where to look, if there is a page: a task's log, a Dag.
        is_repairable: Whether `reconcile` does it by itself.
    """

    stage: Stage
    since: datetime
    reason: Reason
    detail: str
    command: str
    url: str = ""
    is_repairable: bool = False


@dataclass(frozen=True, kw_only=True)
class PartitionProgress:
    """How far one partition has come.

    Args:
        model: The model's name.
        partition: Key of the partition.
        reached: Every stage, in order, and when the partition reached it last, UTC; None: not yet, or not at all.
        waiting: What it waits for within the limits; empty when it is closed or stuck.
        stuck: What keeps it; None when nothing does.
        note: What was decided on it, or why it went no further; may be empty.
    """

    model: str
    partition: str
    reached: Mapping[Stage, datetime | None]
    waiting: str = ""
    stuck: Stuck | None = None
    note: str = ""

    @property
    def furthest(self) -> Stage | None:
        """The last of the stages that it has reached; None before the first."""
        found = [stage for stage in Stage if self.reached.get(stage) is not None]
        return found[-1] if found else None

    @property
    def is_closed(self) -> bool:
        """Whether every decision on it has been taken."""
        return self.reached.get(Stage.CLOSED) is not None


@dataclass(frozen=True, kw_only=True)
class ModelProgress:
    """How far one model's partitions have come.

    Args:
        model: The model's name.
        partitions: Oldest first: those that have landed or are due.
        champion: Version that answers; None before the first.
        canary: Version that answers a share, or copies, of the requests; None without a rollout.
        silent: What did not answer, in words; what only it knows is missing above.
    """

    model: str
    partitions: tuple[PartitionProgress, ...] = ()
    champion: str | None = None
    canary: str | None = None
    silent: tuple[str, ...] = field(default=())

    @property
    def stuck(self) -> tuple[PartitionProgress, ...]:
        """The partitions that are stuck, oldest first."""
        return tuple(found for found in self.partitions if found.stuck is not None)

    def newest(self, stage: Stage) -> str | None:
        """Return the newest partition that has reached a stage, or one after it."""
        order = list(Stage)
        found = [
            item.partition
            for item in self.partitions
            if item.furthest is not None and order.index(item.furthest) >= order.index(stage)
        ]
        return max(found, default=None)
