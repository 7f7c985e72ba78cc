"""Tell which carriers were late too often as soon as a month has landed; by hand: Trigger with a key like 2013-01."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, CronPartitionTimetable, Param, task

from operators.hooks.lake import LakeHook
from operators.ingest_partition import IngestPartitionOperator
from operators.validate_partition import ValidatePartitionOperator
from sensors.partition_landed import PartitionLandedSensor

MODEL = "flight_delays"

with DAG(
    dag_id="late_carriers",
    schedule=CronPartitionTimetable("0 0 1 * *", timezone="UTC", run_offset=-1, key_format="%Y-%m"),
    start_date=datetime(2013, 2, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    params={"max_late_frac": Param(0.3, type="number", minimum=0, maximum=1, description="Share that is no news.")},
    default_args={"retries": 2, "execution_timeout": timedelta(minutes=15)},
) as dag:

    @task.short_circuit
    def worst_carriers(*, params: Any, dag_run: Any) -> list[str]:
        """Return the carriers with too many late flights; if there is none, Airflow skips what follows."""
        from deltalake import DeltaTable  # heavy libraries belong inside the task

        rows = DeltaTable(LakeHook().get_conn().table(MODEL, "flights")).to_pandas(
            filters=[("partition", "=", dag_run.partition_key)], columns=["carrier", "arr_delay"]
        )
        late_frac = (rows["arr_delay"] > 15).groupby(rows["carrier"]).mean()  # noqa: PLR2004 - minutes, as the model's label
        return sorted(late_frac.index[late_frac > params["max_late_frac"]])

    landed = PartitionLandedSensor(task_id="landed", model=MODEL, timeout=86400)
    validate = ValidatePartitionOperator(task_id="validate", model=MODEL)
    tell = BashOperator(task_id="tell", bash_command="echo Late: {{ ti.xcom_pull('worst_carriers') | join(' ') }}")
    landed >> IngestPartitionOperator(task_id="ingest", model=MODEL) >> validate >> worst_carriers() >> tell
