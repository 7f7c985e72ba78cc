"""Train a challenger.

**What** Pins a point-in-time training set, trains on it, compares the version with the champion, the base rate and
boosted trees, compresses it, and registers it as challenger.

**When** Monitoring asks for it (the retrain asset). By hand: Trigger with a partition key such as `2013-03`, the last
of the training window.

**In** The published tables and store features of the window.

**Out** A registered version with the alias `challenger`, and the challenger asset, which starts the roll-out. A version
that a gate stops is not registered: the ledger says why, and the partition is closed. So is it
when the version is the champion already.

**If it fails** The champion keeps serving. Clear the failed task: a training continues at its newest checkpoint, what
is complete is not made again. A partition that may not train is refused with the reason; `force` insists.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, PartitionedAssetTimetable

from operators.assets import closed_asset, retrain_asset
from operators.build_snapshot import BuildSnapshotOperator
from operators.compress_model import CompressModelOperator
from operators.evaluate_model import EvaluateModelOperator
from operators.model_dags import build_model_dags
from operators.notifiers.slack import alert_on_failure
from operators.register_model import RegisterModelOperator
from operators.retries import retry_args
from operators.training_task import training_task

if TYPE_CHECKING:
    from include.spec import ModelSpec

_OVERRIDES = """{{ {'seed': params.seed, 'max_epochs': params.max_epochs, 'learning_rate': params.learning_rate,
'weight_decay': params.weight_decay, 'dropout': params.dropout} | tojson }}"""


def form(spec: ModelSpec) -> dict[str, Param]:
    """Return the form of the Trigger button; what is left empty is the spec's."""
    trained = spec.training

    def number(kind: str, default: Any, description: str, **bounds: float) -> Param:
        return Param(None, type=["null", kind], description=f"{description} Empty: {default}.", **bounds)

    return {
        "force": Param(
            False,
            type="boolean",
            description="Train on a partition that is not the newest, or too old.",
        ),
        "window_partitions": number("integer", trained.window_partitions, "Partitions.", minimum=1, maximum=120),
        "seed": number("integer", trained.seed, "Seed of weights, order and dropout.", minimum=0, maximum=2**31),
        "max_epochs": number("integer", trained.max_epochs, "Passes over the rows at most.", minimum=1, maximum=10_000),
        "learning_rate": number("number", trained.learning_rate, "Step size.", exclusiveMinimum=0, maximum=1),
        "weight_decay": number("number", trained.weight_decay, "Pull of the weights to 0.", minimum=0, maximum=10),
        "dropout": number("number", trained.dropout, "Share of hidden units left out.", minimum=0, maximum=0.9),
    }


def build(spec: ModelSpec) -> DAG:
    """Return the Dag `train_<model>`."""
    with DAG(
        dag_id=f"train_{spec.name}",
        schedule=PartitionedAssetTimetable(assets=retrain_asset(spec.name)),
        start_date=datetime(2013, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        doc_md=__doc__,
        tags=["tradewind", spec.name, "train"],
        default_args={
            **retry_args(execution_timeout=timedelta(minutes=15)),
            "owner": spec.owner,
            "on_failure_callback": alert_on_failure(spec.name),
        },
    ) as dag:
        force = "{{ params.force }}"
        snapshot = BuildSnapshotOperator(
            task_id="snapshot", model=spec.name, window_partitions="{{ params.window_partitions or '' }}", force=force
        )
        trained = training_task(spec, snapshot=snapshot.output, overrides=_OVERRIDES)
        job_uri = "{{ ti.xcom_pull('train')['job_uri'] }}"
        evaluated = EvaluateModelOperator(task_id="evaluate", model=spec.name, job_uri=job_uri)
        compressed = CompressModelOperator(task_id="compress", model=spec.name, evaluation=evaluated.output)
        registered = RegisterModelOperator(task_id="register", model=spec.name, package=compressed.output, force=force)
        closed = EmptyOperator(task_id="closed", outlets=[closed_asset(spec.name)], trigger_rule="all_skipped")
        # A leaf that fails with `train`: `closed`, skipped then, as the only one would make the run succeed.
        ended = EmptyOperator(task_id="ended", trigger_rule="none_failed")
        trained >> evaluated
        registered >> [closed, ended]
    return dag


globals().update(build_model_dags(build, stage="train", form=form))
