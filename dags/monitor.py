"""Monitor a model and decide whether it is worth a training.

**What.** Joins a partition's served predictions to the labels that have arrived since, measures performance, input
drift and prediction drift against the champion, and decides: `bootstrap` (no champion yet, and a training window is
there), `retrain`, `keep`, or `inconclusive`. The data decides: a symptom (higher loss, worse than a constant, drift)
*and* an expected gain, which is what recalibration alone would win; then the newest partition, the cool-down and the
budget of model.yaml.

**When.** A partition's features were materialized (the features asset). By hand: Trigger with a partition key such as
`2013-06`; that takes a new decision, while a cleared run keeps its own.

**In.** The prediction log of the model server, the published tables, the champion's package.

**Out.** The Delta table `performance`; an entry `retrain_decision` in the ledger, with every number it rests on; then
one event: `retrain`, which starts the training, or `closed`. When drift fired, Evidently's report in `reports/`, beside
the training and not before it.

**If it fails.** Nothing was decided, or the decision is in the ledger and a retry goes on from there. No predictions,
or too few labels, is no failure: the decision is then `inconclusive` and says what was missing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, PartitionedAssetTimetable, task
from airflow.sdk.exceptions import AirflowSkipException

from operators.assets import closed_asset, features_asset, retrain_asset
from operators.decide_retrain import DecideRetrainOperator
from operators.model_dags import build_model_dags
from operators.notifiers.slack import SlackNotifier, alert_on_failure
from operators.report_drift import ReportDriftOperator
from operators.retries import retry_args

if TYPE_CHECKING:
    from airflow.sdk import Asset

    from include.spec import ModelSpec

_FOLLOW = {
    "bootstrap": ["publish_retrain"],
    "retrain": ["publish_retrain", "report"],
    "keep": ["publish_closed"],
    "inconclusive": ["publish_closed"],
}
_FIRED = """{% set decision = ti.xcom_pull('decide') -%}
{{ decision['model'] }} {{ decision['partition'] }}: {{ decision['verdict'] }}.
{{ decision['reasons'] | join('; ') }}"""


def _publish(task_id: str, asset: Asset, **kwargs: Any) -> Any:
    """Return a task that sends one event if the decision calls for this very task."""

    @task(task_id=task_id, outlets=[asset], **kwargs)
    def publish(decision: dict[str, Any], *, outlet_events: Any = None) -> None:
        if task_id not in _FOLLOW[decision["verdict"]]:
            raise AirflowSkipException(f"{decision['verdict']}: no event of {asset.name}")
        outlet_events[asset].extra = {key: decision[key] for key in ("model", "partition", "verdict", "ledger_seq")}

    return publish


def build(spec: ModelSpec) -> DAG:
    """Return the Dag `monitor_<model>`."""
    with DAG(
        dag_id=f"monitor_{spec.name}",
        description=f"Is {spec.name} still good, and is new data worth a training?",
        doc_md=__doc__,
        schedule=PartitionedAssetTimetable(assets=features_asset(spec.name)),
        start_date=datetime(2013, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["tradewind", "monitor", spec.name],
        default_args={
            **retry_args(execution_timeout=timedelta(minutes=15)),
            "owner": spec.owner,
            "on_failure_callback": alert_on_failure(spec.name),
        },
    ) as dag:
        decide = DecideRetrainOperator(task_id="decide", model=spec.name, follow=_FOLLOW)
        told = SlackNotifier(model=spec.name, text=_FIRED)
        _publish("publish_retrain", retrain_asset(spec.name), on_success_callback=told)(decide.output)
        _publish("publish_closed", closed_asset(spec.name))(decide.output)
        report = ReportDriftOperator(
            task_id="report", model=spec.name, version="{{ ti.xcom_pull('decide')['champion'] or '' }}"
        )
        decide >> report
    return dag


globals().update(build_model_dags(build, stage="monitor"))
