"""Remove what is old and what nothing needs any more.

**What.** Landed files, table versions, the prediction log, reports, quarantined rows, training jobs with their
checkpoints and training sets, registered versions with their MLflow runs and files, Dag runs with their logs: each as
long as `retention` of model.yaml says. Never what an alias, a lock file, the champion or the one before it, a loaded or
routed version, a training that runs or a partition that is not closed still needs.

**When.** Every Sunday. By hand: `dry_run` only says what would go; `model` looks at one. A model's first pass announces
and removes nothing.

**In.** The policies, and who uses what: MLflow's aliases, lock files, the ledger, the model server, Airflow.

**Out.** Free space; an entry `retention` in the ledger with what went.

**If it fails.** Each thing is removed by itself, in an order in which the next pass goes on. A model whose servers do
not all answer is left alone, and named in the task's log. docs/pages/retention.md says what is kept and why.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from operators.notifiers.slack import alert_on_failure
from operators.retain_models import RetainModelsOperator
from operators.retries import retry_args

with DAG(
    dag_id="retain",
    description="What is old and what nothing needs any more is removed",
    doc_md=__doc__,
    schedule="30 3 * * 0",
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params={
        "model": Param(
            None,
            type=["null", "string"],
            pattern="^[a-z][a-z0-9_]*$",
            title="Model",
            description="The one model to look at; empty: all of them.",
        ),
        "dry_run": Param(
            default=False,
            type="boolean",
            title="Dry run",
            description="Remove nothing; the task's log lists what may go, and why.",
        ),
    },
    tags=["tradewind", "upkeep"],
    default_args={
        **retry_args(execution_timeout=timedelta(hours=1)),
        "owner": "tradewind",
        "on_failure_callback": alert_on_failure("tradewind"),
    },
) as dag:
    RetainModelsOperator(task_id="retain", model="{{ params.model or '' }}", dry_run="{{ params.dry_run }}")
