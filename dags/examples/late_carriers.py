"""Name the carriers that were late most often, as soon as a month has landed.

**What.** Tradewind's operators bring a month into the lake; Airflow's own decide whether somebody should look at it.

**When.** At the end of each month. By hand: Trigger with a partition key such as `2013-01`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, CronPartitionTimetable, Param, get_current_context, task

from operators.hooks.lake import LakeHook
from operators.ingest_partition import IngestPartitionOperator
from operators.validate_partition import ValidatePartitionOperator
from sensors.partition_landed import PartitionLandedSensor

MODEL = "flight_delays"


@task
def worst_carriers() -> list[str]:
    """Return the carriers of which more than `max_late_frac` of a month's flights arrived 15 minutes late or later."""
    from deltalake import DeltaTable  # heavy libraries belong inside the task

    context = get_current_context()
    flights = DeltaTable(LakeHook().get_conn().table(MODEL, "flights")).to_pandas(
        filters=[("partition", "=", context["dag_run"].partition_key)], columns=["carrier", "arr_delay"]
    )
    late_frac = (flights["arr_delay"] > 15).groupby(flights["carrier"]).mean()  # noqa: PLR2004 - as the model's label
    return sorted(late_frac.index[late_frac > context["params"]["max_late_frac"]])


@task.short_circuit
def is_news(carriers: list[str]) -> bool:
    """Return whether there is anything to tell; if not, Airflow skips what follows."""
    return bool(carriers)


with DAG(
    dag_id="late_carriers",
    schedule=CronPartitionTimetable("0 0 1 * *", timezone="UTC", run_offset=-1, key_format="%Y-%m"),
    start_date=datetime(2013, 2, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    params={"max_late_frac": Param(0.3, type="number", minimum=0, maximum=1, description="Share that is no news.")},
    default_args={"retries": 2, "execution_timeout": timedelta(minutes=15)},
    tags=["example"],
) as dag:
    landed = PartitionLandedSensor(task_id="landed", model=MODEL, timeout=86400)
    ingest = IngestPartitionOperator(task_id="ingest", model=MODEL)
    validate = ValidatePartitionOperator(task_id="validate", model=MODEL)
    worst = worst_carriers()
    tell = BashOperator(
        task_id="tell",
        bash_command="echo Late in $MONTH: $CARRIERS",
        env={"MONTH": "{{ dag_run.partition_key }}", "CARRIERS": "{{ ti.xcom_pull('worst_carriers') | join(' ') }}"},
    )
    landed >> ingest >> validate >> worst
    is_news(worst) >> tell
