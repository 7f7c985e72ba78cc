"""What Airflow knows of a model's partitions: Dags, newest runs, tasks that explain something, `closed` events."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from include.progress.facts import DAG_STAGES, Run, Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.runtime.airflow_api import AirflowApi

_ENDED = ("success", "skipped", "removed", "upstream_failed", None)
"""States of tasks that explain nothing; None: it was never begun."""


@dataclass(frozen=True, kw_only=True)
class AirflowFacts:
    """What Airflow knows of one model.

    Args:
        paused: Stage -> whether its Dag is paused; a stage whose Dag does not exist is missing.
        runs: Partition -> stage -> its newest run.
        closed: Partition -> when it was closed last.
    """

    paused: Mapping[str, bool]
    runs: Mapping[str, Mapping[str, Run]]
    closed: Mapping[str, datetime]


def read_airflow(
    api: AirflowApi, *, model: str, max_partitions: int, dags: Mapping[str, bool] | None = None
) -> AirflowFacts:
    """Return what Airflow knows of a model's newest partitions.

    That is a call for each Dag unless they are given, three more, one for each hundred runs, and one for each run that
    failed or goes on now.

    Args:
        api: Airflow.
        model: The model's name.
        max_partitions: Of how many partitions.
        dags: Dag id -> whether it is paused, for whoever reads many models at once.

    Raises:
        ServiceError: Airflow does not answer.
    """
    stage_of = {f"{stage}_{model}": stage for stage in DAG_STAGES}
    paused = {dag_id: api.is_paused(dag_id) if dags is None else dags.get(dag_id) for dag_id in stage_of}
    runs: dict[str, dict[str, Run]] = {}
    for raw in api.dag_runs(list(stage_of), max_runs=len(stage_of) * max_partitions):
        key, stage, run = raw["partition_key"], stage_of[raw["dag_id"]], _run(raw)
        if key and (stage not in runs.setdefault(key, {}) or runs[key][stage].queued_at < run.queued_at):
            runs[key][stage] = run
    closed: dict[str, datetime] = {}
    for event in api.asset_events(f"{model}.closed", max_events=max_partitions):  # oldest first
        if event["partition_key"]:
            closed[event["partition_key"]] = datetime.fromisoformat(event["timestamp"])
    return AirflowFacts(
        paused={stage_of[dag_id]: found for dag_id, found in paused.items() if found is not None},
        runs={
            key: {stage: _explained(run, stage=stage, api=api) for stage, run in of_key.items()}
            for key, of_key in runs.items()
        },
        closed=closed,
    )


def _run(raw: Mapping[str, Any]) -> Run:
    ended = raw["end_date"]
    return Run(
        dag_id=raw["dag_id"],
        run_id=raw["dag_run_id"],
        state=raw["state"],
        queued_at=datetime.fromisoformat(raw["queued_at"] or raw["run_after"]),
        ended_at=datetime.fromisoformat(ended) if ended else None,
    )


def _explained(run: Run, *, stage: str, api: AirflowApi) -> Run:
    """Return a run with its tasks if they say why it does not go on; that a running ingest waits is known anyway."""
    if run.state != "failed" and not (run.state == "running" and stage != "ingest"):
        return run
    tasks = [task for task in api.task_instances(run.dag_id, run.run_id) if task["state"] not in _ENDED]
    return replace(run, tasks=tuple(_task(task, run=run, api=api) for task in tasks))


def _task(raw: Mapping[str, Any], *, run: Run, api: AirflowApi) -> Task:
    since = raw["start_date"] or raw.get("queued_when")
    return Task(
        task_id=raw["task_id"],
        state=raw["state"],
        since=datetime.fromisoformat(since) if since else None,
        url=f"{api.base_url}/dags/{run.dag_id}/runs/{run.run_id}/tasks/{raw['task_id']}",
    )
