"""What keeps a partition from its next stage: a pure function of what is known, of the limits, and of `now`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from include.progress.state import ModelProgress, PartitionProgress, Reason, Stage, Stuck
from include.progress.walk import walk

if TYPE_CHECKING:
    from datetime import datetime

    from include.progress.facts import ModelFacts, PartitionFacts, Run
    from include.progress.walk import Step
    from include.spec import ModelSpec

AWAITING = "awaiting_input"
"""Airflow's state of a task that waits for a person."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a partition may wait for each stage."""

    landing: timedelta
    stage: timedelta
    training: timedelta
    rollout: timedelta
    approval: timedelta
    grace: timedelta

    def of(self, stage: Stage) -> timedelta:
        """Return how long a stage may take."""
        special = {Stage.LANDED: self.landing, Stage.TRAINED: self.training, Stage.DEPLOYED: self.rollout}
        return special.get(stage, self.stage)


def limits_of(spec: ModelSpec) -> Limits:
    """Return a model's limits: those of `progress`, and what its training and its canary may take by themselves."""
    allowed, rollout = spec.progress, spec.rollout
    stage = timedelta(seconds=allowed.stage_s)
    approval = timedelta(seconds=allowed.approval_s)
    steps = timedelta(seconds=rollout.step_timeout_s) * rollout.num_stages
    return Limits(
        landing=timedelta(seconds=allowed.landing_s),
        stage=stage,
        training=stage + timedelta(seconds=spec.training.timeout_s),
        rollout=stage + steps + (approval if rollout.approval else timedelta(0)),
        approval=approval,
        grace=timedelta(seconds=allowed.grace_s),
    )


def judge(facts: ModelFacts, *, now: datetime, limits: Limits) -> ModelProgress:
    """Return how far each partition has come, and what keeps those that do not go on.

    Args:
        facts: What is known.
        now: The clock, UTC.
        limits: How long each stage may take.
    """
    return ModelProgress(
        model=facts.model,
        partitions=tuple(_judge(facts, part, now=now, limits=limits) for part in facts.partitions),
        champion=facts.champion,
        canary=facts.rollout.version if facts.rollout else None,
        silent=facts.silent,
    )


def _judge(facts: ModelFacts, part: PartitionFacts, *, now: datetime, limits: Limits) -> PartitionProgress:
    found = walk(facts, part)
    verdict = _Case(facts=facts, part=part, step=found.step, now=now, limits=limits).verdict() if found.step else ""
    return PartitionProgress(
        model=facts.model,
        partition=part.key,
        reached={stage: found.reached.get(stage) for stage in Stage},
        waiting=verdict if isinstance(verdict, str) else "",
        stuck=verdict if isinstance(verdict, Stuck) else None,
        note=found.note,
    )


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One partition that waits for a stage."""

    facts: ModelFacts
    part: PartitionFacts
    step: Step
    now: datetime
    limits: Limits

    def verdict(self) -> Stuck | str:
        """Return what keeps it, or what it waits for within the limits."""
        if self.step.stage is Stage.LANDED:
            return self._landing()
        limit = self.limits.of(self.step.stage)
        if self.facts.paused is None:
            why = f"{self.step.stage} has not followed, and Airflow does not answer"
            return self._unless(limit, "Airflow answers", self._stuck(Reason.UNKNOWN, why, "./tradewind doctor"))
        if self.step.dag not in self.facts.paused:
            why = f"there is no Dag {self._dag_id}: its file or model.yaml cannot be read"
            return self._stuck(Reason.UNKNOWN, why, f"./tradewind check {self.facts.model}")
        run = self.step.run
        if run is None:
            return self._without_run(limit)
        if run.state == "failed":
            return self._failed(run)
        if run.is_active and self.facts.paused[self.step.dag]:
            return self._paused()
        return self._queued(run, limit) if run.state == "queued" else self._running(run, limit)

    def _landing(self) -> Stuck | str:
        folder = f"{self.facts.landing}/{self.part.key}/"
        why, command = f"no marker in {folder}", f"ask who lands it; the marker is written last, into {folder}"
        run = self.step.run
        if run is not None and run.state == "failed":
            why += f", and {run.dag_id} has given up waiting"
            command += f"; then clear {run.dag_id} {run.run_id}"
        return self._unless(self.limits.landing, "its files", self._stuck(Reason.LANDING_LATE, why, command))

    def _queued(self, run: Run, limit: timedelta) -> Stuck | str:
        others = [
            f"{item.runs[self.step.dag].run_id} ({item.key})"
            for item in self.facts.partitions
            if self.step.dag in item.runs and item.runs[self.step.dag].state == "running"
        ]
        why = f"{run.dag_id} {run.run_id} is queued" + (f" behind {', '.join(others)}" if others else "")
        command = (
            f"look at what runs: {', '.join(others)}" if others else "./tradewind doctor: does the scheduler live?"
        )
        return self._unless(limit, why, self._stuck(Reason.RUN_QUEUED, why, command, url=self._url(run)))

    def _running(self, run: Run, limit: timedelta) -> Stuck | str:
        asked = next((task for task in run.tasks if task.state == AWAITING), None)
        if asked is not None:
            why = f"{run.dag_id} asks a person whether {self.step.of} may take traffic"
            command = "answer in Airflow, under Required Actions"
            stuck = self._stuck(Reason.APPROVAL, why, command, url=asked.url, since=asked.since)
            return self._unless(self.limits.approval, "approval by a person", stuck)
        rollout = self.facts.rollout
        if self.step.dag == "deploy" and rollout is not None and rollout.num_requests < rollout.num_needed:
            why = f"{rollout.role} v{rollout.version} has {rollout.num_requests} of {rollout.num_needed} requests"
            command = f"send requests to {self.facts.model}; to give up, fail the task that waits: it is rolled back"
            return self._unless(limit, why, self._stuck(Reason.NO_TRAFFIC, why, command, url=self._url(run)))
        at = ", ".join(task.task_id for task in run.tasks) or "its end"
        why = f"{run.dag_id} {run.run_id} is {run.state}, at {at}"
        stuck = self._stuck(Reason.RUN_SLOW, why, f"read the log of {at}", url=self._url(run))
        return self._unless(limit, f"{run.dag_id}, at {at}", stuck)

    def _without_run(self, limit: timedelta) -> Stuck | str:
        producer = self.step.producer
        if producer is not None and producer.state == "failed":
            return self._failed(producer)
        if producer is not None and producer.is_active:
            return self._running(producer, limit)
        if (self.facts.paused or {}).get(self.step.dag):
            return self._paused()
        if self.step.dag == "ingest":
            why = f"{self._dag_id} has no run for {self.part.key} yet"
            command = f"trigger {self._dag_id} with the partition key {self.part.key}"
            return self._unless(limit, why, self._stuck(Reason.RUN_QUEUED, why, command, url=self._dag_url))
        why = f"{self.step.of} never started {self._dag_id}"
        stuck = self._stuck(
            Reason.EVENT_LOST, why, f"./tradewind reconcile {self.facts.model}", url=self._dag_url, is_repairable=True
        )
        return self._unless(self.limits.grace, f"a run of {self._dag_id}", stuck)

    def _paused(self) -> Stuck | str:
        why = f"{self._dag_id} is paused; events that come meanwhile start no run, not even later"
        command = f"./tradewind reconcile {self.facts.model} --unpause"
        stuck = self._stuck(Reason.DAG_PAUSED, why, command, url=self._dag_url)
        return self._unless(self.limits.grace, f"{self._dag_id}, which is paused", stuck)

    def _failed(self, run: Run) -> Stuck:
        failed = [task for task in run.tasks if task.state == "failed"]
        last = max(failed, key=lambda task: task.since or run.queued_at, default=None)
        name = f"{run.dag_id}.{last.task_id}" if last else f"{run.dag_id} {run.run_id}"
        said = f": {last.message}" if last and last.message else ""
        return self._stuck(
            Reason.TASK_FAILED,
            f"{name} failed{said}",
            f"mend what it says, then clear {name} of {run.run_id}",
            url=last.url if last and last.url else self._url(run),
            since=run.ended_at,
        )

    def _stuck(
        self,
        reason: Reason,
        detail: str,
        command: str,
        *,
        url: str = "",
        since: datetime | None = None,
        is_repairable: bool = False,
    ) -> Stuck:
        return Stuck(
            stage=self.step.stage,
            since=since or self.step.since,
            reason=reason,
            detail=detail,
            command=command,
            url=url,
            is_repairable=is_repairable,
        )

    def _unless(self, limit: timedelta, otherwise: str, stuck: Stuck) -> Stuck | str:
        """Return what is stuck, or what is waited for as long as the wait is within its limit."""
        return stuck if self.now - stuck.since > limit else otherwise

    @property
    def _dag_id(self) -> str:
        return f"{self.step.dag}_{self.facts.model}"

    @property
    def _dag_url(self) -> str:
        return f"{self.facts.airflow_url}/dags/{self._dag_id}" if self.facts.airflow_url else ""

    def _url(self, run: Run) -> str:
        return f"{self.facts.airflow_url}/dags/{run.dag_id}/runs/{run.run_id}" if self.facts.airflow_url else ""
