from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from include.spec import model_names
from operators.hooks.airflow_api import AirflowApiHook
from operators.hooks.lake import LakeHook
from operators.hooks.ledger import LedgerHook
from operators.hooks.mlflow import MlflowHook
from operators.hooks.model_server import ModelServerHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from include.retention.passes import Keeper


class RetainModelsOperator(BaseOperator):
    """Removes what is older than `retention` in model.yaml allows and what nothing needs any more.

    Never removed: what an alias, a lock file, the ledger's champions, a loaded or routed version, a training that runs
    or an open partition needs. A model's first pass only announces. While a server is silent its models are left alone.
    Killed anywhere, the next pass goes on.

    Args:
        model: The one model to look at; empty: all of them. Templated.
        dry_run: Whether to look only; text `True` or `False`. Templated.
        lake_conn_id: Connection of the lake.
        ledger_conn_id: Connection of the ledger.
        mlflow_conn_id: Connection of the model registry.
        model_server_conn_id: Connection of the model server.
        airflow_api_conn_id: Connection of Airflow's REST API; its user must be allowed to delete Dag runs.

    Returns:
        `removed` and `planned` (model -> kind -> number), `unreadable` (model -> why), `num_upkeep_runs` (runs of
        `reconcile` and `retain` themselves that were removed).

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

    def execute(self, context: Context) -> dict[str, Any]:
        """Pass over the models; what comes back is small and JSON."""
        found = self._keeper(str(context.get("run_id", "by-hand"))).run(
            [self.model] if self.model else model_names(),
            now=datetime.now(UTC),
            is_dry=str(self.dry_run) == "True",
        )
        for line in found.lines():
            self.log.info("%s", line)
        return found.to_dict()

    def _keeper(self, run_id: str) -> Keeper:
        from airflow.sdk.configuration import conf

        from include.progress.read import Sources
        from include.retention.passes import Keeper
        from include.retention.read import Servers

        tracking_uri = MlflowHook(self.mlflow_conn_id).get_conn()
        server = ModelServerHook(self.model_server_conn_id).get_conn()
        airflow = AirflowApiHook(self.airflow_api_conn_id).get_conn()
        # Logs in an object store are for its own lifecycle rules.
        is_remote = conf.getboolean("logging", "remote_logging", fallback=False)
        return Keeper(
            sources=Sources(
                storage=LakeHook(self.lake_conn_id).get_conn(),
                ledger=LedgerHook(self.ledger_conn_id).get_conn(),
                tracking_uri=tracking_uri,
                server=server,
                airflow=airflow,
            ),
            servers=Servers(tracking_uri=tracking_uri, server=server, airflow=airflow),
            actor=f"{self.dag_id}:{run_id}",
            key=run_id,
            logs=None if is_remote else Path(conf.get("logging", "base_log_folder")),
        )
