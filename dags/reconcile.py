"""Find what was lost between two stages, start it again, and say which partition is stuck and why.

**What.** Compares, for the newest partitions of every model, what each stage has left (rows, features, decisions,
versions) with the runs that should have taken it up. What never got its run, because its Dag was paused, its event was
lost, or a process died between a commit and its event, gets it now, in the order of the partitions. Whatever else does
not go on within its limit (`progress` of model.yaml) is told once with its reason and the command that frees it, and
once more when it goes on.

**When.** Every five minutes. By hand: `dry_run` only looks; `model` looks at one.

**In.** The lake, the ledger, MLflow's versions and aliases, the model server's routes, Airflow's REST API.

**Out.** Dag runs named `reconcile__<partition>__<when>`, an entry `reconcile` in the ledger for each, alerts.

**If it fails.** Airflow's REST API did not answer, or refused the user of the connection `airflow_api_default`. Nothing
is lost by it: the next pass finds the same. docs/pages/stuck.md explains every reason.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from operators.notifiers.slack import alert_on_failure
from operators.reconcile_models import ReconcileModelsOperator
from operators.retries import retry_args

with DAG(
    dag_id="reconcile",
    description="What was lost between two stages is started again; what is stuck is named",
    doc_md=__doc__,
    schedule="*/5 * * * *",
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
            description="Look only: start nothing, tell nobody; the task's log says what it would do.",
        ),
    },
    tags=["tradewind", "upkeep"],
    default_args={
        # What does not answer is asked again for an hour: people hear of it once an hour, not every five minutes.
        **retry_args(execution_timeout=timedelta(minutes=15), outage=timedelta(hours=1)),
        "owner": "tradewind",
        "on_failure_callback": alert_on_failure("tradewind"),
    },
) as dag:
    ReconcileModelsOperator(task_id="reconcile", model="{{ params.model or '' }}", dry_run="{{ params.dry_run }}")
