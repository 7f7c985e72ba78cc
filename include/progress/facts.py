"""What is known about a model's partitions, from wherever its state lives; nothing here is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

DAG_STAGES = ("ingest", "materialize", "monitor", "train", "deploy")
"""Stages whose Dags bring a partition from landed to closed, in order."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a run that failed or still runs.

    Args:
        task_id: Its id.
        state: Airflow's word for its state.
        since: When it began, UTC; None if it has not.
        url: Its page in Airflow.
        message: What it said when it failed, as the ledger's alert keeps it.
    """

    task_id: str
    state: str
    since: datetime | None = None
    url: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The newest Dag run of one stage for one partition.

    Args:
        dag_id: Its Dag.
        run_id: Its id.
        state: queued, running, success or failed.
        queued_at: When it was made or cleared, UTC.
        ended_at: When it ended; None while it has not.
        tasks: Those that failed or have not ended; read only where they explain something.
    """

    dag_id: str
    run_id: str
    state: str
    queued_at: datetime
    ended_at: datetime | None = None
    tasks: tuple[Task, ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether it is still to come to an end."""
        return self.state in ("queued", "running")


@dataclass(frozen=True, kw_only=True)
class DecisionFact:
    """The newest decision on a partition, from the ledger.

    Args:
        at: When it was recorded.
        is_training: Whether it called for a training.
        summary: Verdict and first reason.
    """

    at: datetime
    is_training: bool
    summary: str


@dataclass(frozen=True, kw_only=True)
class VersionFact:
    """The newest version that was trained on a window that ends with a partition.

    Args:
        version: Its number.
        created_at: When it was registered.
        is_challenger: Whether the alias `challenger` points at it.
        took_over_at: When it became champion, from the ledger; None: never.
        ended_at: When its rollout ended, either way; None: not yet, or it never began.
    """

    version: str
    created_at: datetime
    is_challenger: bool = False
    took_over_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class PartitionFacts:
    """What is known about one partition.

    Args:
        key: Its key.
        due_at: When it may be expected: its end, or for history that is run again when Airflow began to wait for it.
            None: nothing waits for it yet.
        landed_at: When its marker was written; None: it is not there.
        published_at: Since when every table of the source holds its present rows.
        features_at: Since when every store feature's table holds its present rows.
        decision: The newest decision.
        version: The newest version of its window.
        closed_at: Time of its newest `closed` event; None: none, or Airflow is silent.
        runs: Stage -> its newest Dag run.
    """

    key: str
    due_at: datetime | None = None
    landed_at: datetime | None = None
    published_at: datetime | None = None
    features_at: datetime | None = None
    decision: DecisionFact | None = None
    version: VersionFact | None = None
    closed_at: datetime | None = None
    runs: Mapping[str, Run] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RolloutFacts:
    """What the router does with a challenger: which version, in which role, and how many requests it has had."""

    version: str
    role: str
    num_requests: int
    num_needed: int


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known about a model.

    Args:
        model: Its name.
        partitions: Oldest first.
        newest_published: Newest partition that every table of the source holds.
        champion: Version that serves.
        champion_window_end: Last partition that it was trained on.
        rollout: The challenger in the router; None without one.
        paused: Stage -> whether its Dag is paused; a stage without a Dag is missing. None: Airflow is silent.
        landing: Folder in which partitions land.
        airflow_url: Airflow's pages.
        silent: What did not answer.
    """

    model: str
    partitions: tuple[PartitionFacts, ...] = ()
    newest_published: str | None = None
    champion: str | None = None
    champion_window_end: str | None = None
    rollout: RolloutFacts | None = None
    paused: Mapping[str, bool] | None = None
    landing: str = ""
    airflow_url: str = ""
    silent: tuple[str, ...] = ()
