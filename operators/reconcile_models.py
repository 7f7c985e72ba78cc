from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from include.spec import model_names
from operators.hooks.airflow_api import AirflowApiHook
from operators.hooks.lake import LakeHook
from operators.hooks.ledger import LedgerHook
from operators.hooks.mlflow import MlflowHook
from operators.hooks.model_server import ModelServerHook
from operators.hooks.slack import SlackHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from include.progress.read import Sources


class ReconcileModelsOperator(BaseOperator):
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

    template_fields: ClassVar[Sequence[str]] = ("model", "dry_run")

    def __init__(
        self,
        *,
        model: str = "",
        dry_run: bool | str = False,
        lake_conn_id: str = LakeHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        model_server_conn_id: str = ModelServerHook.default_conn_name,
        airflow_api_conn_id: str = AirflowApiHook.default_conn_name,
        slack_conn_id: str = SlackHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.dry_run = dry_run
        self.lake_conn_id = lake_conn_id
        self.ledger_conn_id = ledger_conn_id
        self.mlflow_conn_id = mlflow_conn_id
        self.model_server_conn_id = model_server_conn_id
        self.airflow_api_conn_id = airflow_api_conn_id
        self.slack_conn_id = slack_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Pass over the models; what comes back is small and JSON."""
        from include.progress.reconcile import reconcile_models
        from include.progress.telling import Teller

        sources, actor = self._sources(), f"{self.dag_id}:{context.get('run_id', 'by-hand')}"
        found = reconcile_models(
            [self.model] if self.model else model_names(),
            sources=sources,
            now=datetime.now(UTC),
            actor=None if str(self.dry_run) == "True" else actor,
            teller=Teller(ledger=sources.ledger, poster=SlackHook(self.slack_conn_id).get_conn(), actor=actor),
        )
        for line in found.lines():
            self.log.info("%s", line)
        return found.to_dict()

    def _sources(self) -> Sources:
        from include.progress.read import Sources

        return Sources(
            storage=LakeHook(self.lake_conn_id).get_conn(),
            ledger=LedgerHook(self.ledger_conn_id).get_conn(),
            tracking_uri=MlflowHook(self.mlflow_conn_id).get_conn(),
            server=ModelServerHook(self.model_server_conn_id).get_conn(),
            airflow=AirflowApiHook(self.airflow_api_conn_id).get_conn(),
        )
