"""Materialize a model's store features.

**What** Computes a partition's store features, writes them into Feast's online store, and compares samples of both.

**When** A partition was validated (the dataset asset). By hand: Trigger with a partition key such as `2013-01`.

**In** The published tables of the partition, and of those before it that its features look back to.

**Out** The Delta tables `features_<view>`, the online store, and the features asset, which starts monitoring.

**If it fails** Nothing downstream has seen the partition; serving keeps the features that it had. Every task may be
cleared and run again at any time. A failed parity check names the values that differ: clear `materialize_features`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow.sdk import DAG, PartitionedAssetTimetable

from operators.assets import dataset_asset
from operators.build_features import BuildFeaturesOperator
from operators.check_parity import CheckParityOperator
from operators.materialize_features import MaterializeFeaturesOperator
from operators.model_dags import build_model_dags
from operators.notifiers.slack import alert_on_failure
from operators.retries import retry_args

if TYPE_CHECKING:
    from include.spec import ModelSpec


def build(spec: ModelSpec) -> DAG:
    """Return the Dag `materialize_<model>`."""
    with DAG(
        dag_id=f"materialize_{spec.name}",
        schedule=PartitionedAssetTimetable(assets=dataset_asset(spec.name)),
        start_date=datetime(2013, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        doc_md=__doc__,
        tags=["tradewind", spec.name, "materialize"],
        default_args={
            **retry_args(execution_timeout=timedelta(minutes=15)),
            "owner": spec.owner,
            "on_failure_callback": alert_on_failure(spec.name),
        },
    ) as dag:
        built = BuildFeaturesOperator(task_id="build_features", model=spec.name)
        materialized = MaterializeFeaturesOperator(task_id="materialize_features", model=spec.name)
        checked = CheckParityOperator(task_id="check_parity", model=spec.name)
        built >> materialized >> checked
    return dag


globals().update(build_model_dags(build, stage="materialize"))
