"""Start what an event that was lost should have started.

A repair is a Dag run with the partition's key and a name that says what it takes up. The name follows from the state
alone and Airflow's database holds it once, so that two reconcilers, or one that was killed and began again, start one
run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from include.progress.walk import CLOCK_SKEW, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.progress.facts import ModelFacts
    from include.progress.state import ModelProgress
    from include.rollout.ledger import Ledger

KIND = "reconcile"
"""Kind of the ledger's entries about repairs."""

MAX_REPAIRS = 100
"""Runs of one model that one pass starts; the next pass starts more."""


class StartsRuns(Protocol):
    """What a repair needs of `include.runtime.airflow_api.AirflowApi`."""

    def dag_runs(self, dag_ids: Sequence[str], *, max_runs: int) -> list[dict[str, Any]]:
        """Return the newest runs of some Dags."""
        ...

    def trigger(self, dag_id: str, *, run_id: str, partition: str, run_after: datetime) -> bool:
        """Start a run, unless one has that name."""
        ...


@dataclass(frozen=True, kw_only=True)
class Repair:
    """A run that should have been started.

    Args:
        model: The model's name.
        partition: Its partition key.
        dag_id: The Dag.
        run_id: The run's name.
        made_at: When that was made which the run takes up; a run that was queued later has seen it.
        run_after: Airflow starts queued runs in this order.
        why: What was lost.
    """

    model: str
    partition: str
    dag_id: str
    run_id: str
    made_at: datetime
    run_after: datetime
    why: str


def plan_repairs(facts: ModelFacts, progress: ModelProgress) -> tuple[Repair, ...]:
    """Return the runs to start, oldest partition first.

    All runs of one Dag are ordered before what was queued since the first of them was lost, and among themselves by
    partition: where a Dag has one run at a time, they run in the order in which they should have.
    """
    steps = {part.key: walk(facts, part).step for part in facts.partitions}
    lost = [
        (found.partition, found.stuck.detail, step)
        for found in progress.stuck
        if found.stuck and found.stuck.is_repairable and (step := steps[found.partition]) is not None
    ]
    first = {step.dag: min(other.made_at for _, _, other in lost if other.dag == step.dag) for _, _, step in lost}
    return tuple(
        Repair(
            model=facts.model,
            partition=partition,
            dag_id=f"{step.dag}_{facts.model}",
            run_id=f"reconcile__{partition}__{step.made_at:%Y%m%dT%H%M%S%f}",
            made_at=step.made_at,
            run_after=first[step.dag] + timedelta(microseconds=number),
            why=detail,
        )
        for number, (partition, detail, step) in enumerate(sorted(lost, key=lambda item: item[0]))
    )[:MAX_REPAIRS]


def do_repair(repair: Repair, *, api: StartsRuns, ledger: Ledger, actor: str) -> bool:
    """Start a run, unless one has appeared since the facts were read; return whether this call started it.

    The ledger knows of it first: killed in between, the next pass finds the same loss, the same name and the same
    entry, and starts the run.

    Raises:
        ServiceError: Airflow does not answer; the next pass starts the run.
    """
    if _has_run(repair, api=api):
        return False
    ledger.append(
        model=repair.model,
        kind=KIND,
        subject=repair.partition,
        evidence={"dag_id": repair.dag_id, "run_id": repair.run_id, "reasons": [repair.why]},
        actor=actor,
        key=f"{KIND}:{repair.dag_id}:{repair.run_id}",
    )
    return api.trigger(repair.dag_id, run_id=repair.run_id, partition=repair.partition, run_after=repair.run_after)


def _has_run(repair: Repair, *, api: StartsRuns) -> bool:
    """Return whether a run is there that has seen, or will see, what was lost."""
    return any(
        raw["partition_key"] == repair.partition
        and datetime.fromisoformat(raw["queued_at"] or raw["run_after"]) >= repair.made_at - CLOCK_SKEW
        for raw in api.dag_runs([repair.dag_id], max_runs=200)
    )
