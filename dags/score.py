"""Score whole partitions with one version.

**What.** Every example of a partition, cancelled flights too, goes through one version, with the features that serving
would have had. One mapped task scores one partition.

**When.** A person presses Trigger and names partitions and version.

**In.** The published tables and features of the partitions; the version's package.

**Out.** The Delta table `scores`: example_id, event_at, model_version, the prediction. Scoring a partition again
replaces its scores; the table's history keeps the earlier ones.

**If it fails.** The partition keeps the scores that it had; the others are not affected. Clear the task that failed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow.sdk import DAG, Param, task

from include.partitions import EXAMPLES
from operators.model_dags import build_model_dags
from operators.notifiers.slack import alert_on_failure
from operators.retries import retry_args
from operators.score_partition import ScorePartitionOperator

if TYPE_CHECKING:
    from typing import Any

    from include.spec import ModelSpec

_WEEK, _MONTH = "W(0[1-9]|[1-4][0-9]|5[0-3])", "(0[1-9]|1[0-2])"
_DAY, _HOUR = "(0[1-9]|[12][0-9]|3[01])", "([01][0-9]|2[0-3])"
_ANY_KEY = f"^[0-9]{{4}}-({_WEEK}|{_MONTH}(-{_DAY}(T{_HOUR})?)?)$"
_MAX_PARTITIONS = 120
_MAX_AT_ONCE = 2


@task
def list_partitions(params: dict[str, Any] | None = None) -> list[str]:
    """Return the partitions that the run was triggered with, each once."""
    return sorted(set((params or {})["partitions"]))


def form(spec: ModelSpec) -> dict[str, Param]:
    """Return the form of the Trigger button."""
    return {
        "partitions": Param(
            [spec.source.first_partition],
            type="array",
            items={"type": "string", "pattern": _ANY_KEY},
            minItems=1,
            maxItems=_MAX_PARTITIONS,
            title="Partitions",
            description=f"Partitions to score, for example {EXAMPLES[spec.source.grain]}, one a line.",
        ),
        "version": Param(
            "champion",
            type="string",
            pattern="^([0-9]+|[a-z][a-z0-9_]*)$",
            title="Version",
            description="Version of the model in MLflow, or an alias such as champion.",
        ),
    }


def build(spec: ModelSpec) -> DAG:
    """Return the Dag `score_<model>`."""
    with DAG(
        dag_id=f"score_{spec.name}",
        description=f"Batch scores of {spec.name}",
        doc_md=__doc__,
        schedule=None,
        start_date=datetime(2013, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["tradewind", "score", spec.name],
        default_args={
            **retry_args(execution_timeout=timedelta(minutes=30)),
            "owner": spec.owner,
            "on_failure_callback": alert_on_failure(spec.name),
        },
    ) as dag:
        ScorePartitionOperator.partial(
            task_id="score",
            model=spec.name,
            version="{{ params.version }}",
            max_active_tis_per_dagrun=_MAX_AT_ONCE,
            map_index_template="{{ task.partition }}",
        ).expand(partition=list_partitions())
    return dag


globals().update(build_model_dags(build, stage="score", form=form))
