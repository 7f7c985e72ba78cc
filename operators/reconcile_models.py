from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from operators.hooks.slack import SlackHook
from operators.upkeep_operator import UpkeepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReconcileModelsOperator(UpkeepOperator):
    """Starts the runs that a lost event should have started, and tells which partitions are stuck and why.

    Every repair and every alert is in the ledger, once; running it again, or twice at once, starts nothing twice. A
    model that cannot be read hides no other.

    Args:
        model: The one model to look at; empty: all of them. Templated.
        dry_run: Whether to look only; text `True` or `False`. Templated.
        lake_conn_id: Connection of the lake.
        ledger_conn_id: Connection of the ledger.
        mlflow_conn_id: Connection of the model registry.
        model_server_conn_id: Connection of the model server.
        airflow_api_conn_id: Connection of Airflow's REST API; its user must be allowed to trigger Dag runs.
        slack_conn_id: Connection of Slack; it may be missing.

    Returns:
        `num_models`, `started` and `planned` (Dag, partition, run_id, why), `stuck` (model, partition, stage, reason,
        detail, command), `unreadable` (model -> why).

    Raises:
        ServiceError: Airflow's REST API does not answer.
    """

    def __init__(self, *, slack_conn_id: str = SlackHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slack_conn_id = slack_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Pass over the models; what comes back is small and JSON."""
        from include.progress.reconcile import reconcile_models
        from include.progress.telling import Teller

        sources, actor = self.sources(), f"{self.dag_id}:{context.get('run_id', 'by-hand')}"
        found = reconcile_models(
            self.models(),
            sources=sources,
            now=datetime.now(UTC),
            actor=None if self.is_dry else actor,
            teller=Teller(ledger=sources.ledger, poster=SlackHook(self.slack_conn_id).get_conn(), actor=actor),
        )
        for line in found.lines():
            self.log.info("%s", line)
        return found.to_dict()
