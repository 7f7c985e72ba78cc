from __future__ import annotations

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

    from include.progress.read import Sources


class UpkeepOperator(BaseOperator):
    """What operators that look after all models share: which models, whether to look only, and whom to ask.

    Args:
        model: The one model to look at; empty: all of them. Templated.
        dry_run: Whether to look only; text `True` or `False`. Templated.
        lake_conn_id: Connection of the lake.
        ledger_conn_id: Connection of the ledger.
        mlflow_conn_id: Connection of the model registry.
        model_server_conn_id: Connection of the model server.
        airflow_api_conn_id: Connection of Airflow's REST API.
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

    @property
    def is_dry(self) -> bool:
        """Whether to look only."""
        return str(self.dry_run) == "True"

    def models(self) -> list[str]:
        """Return the models to look at."""
        return [self.model] if self.model else model_names()

    def sources(self) -> Sources:
        """Return where the facts about models are."""
        from include.progress.read import Sources

        return Sources(
            storage=LakeHook(self.lake_conn_id).get_conn(),
            ledger=LedgerHook(self.ledger_conn_id).get_conn(),
            tracking_uri=MlflowHook(self.mlflow_conn_id).get_conn(),
            server=ModelServerHook(self.model_server_conn_id).get_conn(),
            airflow=AirflowApiHook(self.airflow_api_conn_id).get_conn(),
        )
