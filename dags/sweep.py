"""Delete what trainings have left on a cluster.

**What.** Pods, Jobs and TrainJobs of trainings that no task waits for any more: after a Dag run was deleted, or when
Kubernetes' API was silent while a task was ended.

**When.** Every hour. By hand: `dry_run` only says what would go.

**In.** The cluster's objects by label, and Airflow's word about the task of each.

**Out.** GPUs that are free again. Without a cluster the task is skipped.

**If it fails.** Nothing that a task waits for is ever deleted; the next pass goes on. It fails as well, after it has
swept all else, where the connection's account may not look: the error names the kinds and namespaces.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from operators.notifiers.slack import alert_on_failure
from operators.retries import retry_args
from operators.sweep_training import SweepTrainingOperator

with DAG(
    dag_id="sweep",
    description="What trainings have left on a cluster is deleted",
    doc_md=__doc__,
    schedule="10 * * * *",
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params={
        "dry_run": Param(
            default=False,
            type="boolean",
            title="Dry run",
            description="Delete nothing; the task's log lists what would go.",
        ),
    },
    tags=["tradewind", "upkeep"],
    default_args={
        **retry_args(execution_timeout=timedelta(minutes=15)),
        "owner": "tradewind",
        "on_failure_callback": alert_on_failure("tradewind"),
    },
) as dag:
    SweepTrainingOperator(task_id="sweep", dry_run="{{ params.dry_run }}")
