from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.hooks.airflow_api import AirflowApiHook
from operators.hooks.mlflow import MlflowHook
from operators.hooks.model_server import ModelServerHook
from operators.upkeep_operator import UpkeepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.retention.passes import Keeper


class RetainModelsOperator(UpkeepOperator):
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

    def execute(self, context: Context) -> dict[str, Any]:
        """Pass over the models; what comes back is small and JSON."""
        found = self._keeper(str(context.get("run_id", "by-hand"))).run(
            self.models(),
            now=datetime.now(UTC),
            is_dry=self.is_dry,
        )
        for line in found.lines():
            self.log.info("%s", line)
        return found.to_dict()

    def _keeper(self, run_id: str) -> Keeper:
        from airflow.sdk.configuration import conf

        from include.retention.passes import Keeper
        from include.retention.read import Servers

        # Logs in an object store are for its own lifecycle rules.
        is_remote = conf.getboolean("logging", "remote_logging", fallback=False)
        return Keeper(
            sources=self.sources(),
            servers=Servers(
                tracking_uri=MlflowHook(self.mlflow_conn_id).get_conn(),
                server=ModelServerHook(self.model_server_conn_id).get_conn(),
                airflow=AirflowApiHook(self.airflow_api_conn_id).get_conn(),
            ),
            actor=f"{self.dag_id}:{run_id}",
            key=run_id,
            logs=None if is_remote else Path(conf.get("logging", "base_log_folder")),
        )
