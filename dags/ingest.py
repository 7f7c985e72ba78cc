"""Ingest: landed files become validated, versioned tables.

**What.** Waits for a partition's marker, writes its files typed into the staged tables, checks them with the model's
expectations, sets bad rows aside with the reason and publishes the good ones.

**When.** Once for each partition, at its local end (or as `source.cron` of model.yaml says), from the first partition
on. Several partitions wait at once and may land in any order; waiting takes no worker.

**In.** `landing/<model>/<partition>/`: the files of `source.tables`, then the marker.

**Out.** The Delta tables of the model and `quarantine`; Data Docs below `reports/`; the asset `<model>.dataset` with
partition and versions. Equal content landed again makes no version and no event.

**If it fails.** Nothing of the partition was published. `wait`: the upstream system is late. `ingest`: the message
names file, column and line. `validate`: open the task's Data Docs link. Have the partition landed again, then clear the
tasks from `wait` on.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import DAG, CronPartitionTimetable

from include import partitions
from operators.ingest_partition import IngestPartitionOperator
from operators.model_dags import build_model_dags
from operators.notifiers.slack import alert_on_failure
from operators.retries import retry_args
from operators.validate_partition import ValidatePartitionOperator
from sensors.partition_landed import PartitionLandedSensor

if TYPE_CHECKING:
    from datetime import datetime

    from include.spec import ModelSpec, SourceSpec


def _last_run_date(source: SourceSpec) -> datetime | None:
    """Return the last moment at which the run of the source's last partition may be due; None if there is no last."""
    if source.last_partition is None:
        return None
    following = partitions.shift(source.last_partition, 1)
    return partitions.end_of(following, timezone=source.timezone) - timedelta(seconds=1)


def build(spec: ModelSpec) -> DAG:
    """Return the ingest Dag of a model."""
    source = spec.source
    with DAG(
        dag_id=f"ingest_{spec.name}",
        description=f"Landed files of {spec.name} become validated, versioned tables",
        doc_md=__doc__,
        schedule=CronPartitionTimetable(
            source.schedule, timezone=source.timezone, run_offset=-1, key_format=partitions.KEY_FORMATS[source.grain]
        ),
        start_date=partitions.end_of(source.first_partition, timezone=source.timezone),
        end_date=_last_run_date(source),
        catchup=True,
        max_active_runs=spec.limits.max_active_partitions,
        default_args={
            **retry_args(execution_timeout=timedelta(minutes=15)),
            "owner": spec.owner,
            "on_failure_callback": alert_on_failure(spec.name),
        },
        tags=["tradewind", "ingest", spec.name],
    ) as dag:
        wait = PartitionLandedSensor(
            task_id="wait",
            model=spec.name,
            poke_interval=source.poke_interval_s,
            timeout=source.wait_timeout_s,
            execution_timeout=timedelta(seconds=source.wait_timeout_s),
        )
        ingest = IngestPartitionOperator(task_id="ingest", model=spec.name)
        validate = ValidatePartitionOperator(task_id="validate", model=spec.name)
        wait >> ingest >> validate
    return dag


globals().update(build_model_dags(build, stage="ingest"))
