from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from include.rollout.choosing import supersede
from operators.assets import champion_asset, closed_asset
from operators.hooks.ledger import LedgerHook
from operators.hooks.mlflow import MlflowHook
from operators.hooks.model_server import ModelServerHook
from operators.rollouts import rollout_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from include.rollout.stages import Rollout


class RolloutOperator(BaseOperator):
    """What all operators on a model's rollout share: the connections of its parts, and the events that end it.

    Args:
        model: Folder of the model below `include/models`.
        mlflow_conn_id: Connection of the model registry.
        model_server_conn_id: Connection of the model server.
        ledger_conn_id: Connection of the ledger.
    """

    def __init__(
        self,
        *,
        model: str,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        model_server_conn_id: str = ModelServerHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.mlflow_conn_id = mlflow_conn_id
        self.model_server_conn_id = model_server_conn_id
        self.ledger_conn_id = ledger_conn_id

    def rollout(self, context: Context) -> Rollout:
        """Return the rollout of this Dag run."""
        return rollout_of(
            context,
            model=self.model,
            mlflow_conn_id=self.mlflow_conn_id,
            model_server_conn_id=self.model_server_conn_id,
            ledger_conn_id=self.ledger_conn_id,
        )

    def skip_superseded(self, rollout: Rollout, version: str) -> None:
        """End the task as skipped, and say so in the ledger, if a champion that knows newer data has taken over.

        Raises:
            AirflowSkipException: It has.
        """
        entry = supersede(rollout, version)
        if entry is not None:
            raise AirflowSkipException(
                f"{self.model} v{version} must know data to {entry.evidence['champion_window_end']} as champion "
                f"v{entry.evidence['by']} does; got {entry.evidence['window_end'] or 'no window'}: it is superseded. "
                "The routes stay as they are. Trigger with `version` and `force` to deploy it all the same."
            )

    def announce(self, context: Context, found: Mapping[str, Any]) -> None:
        """Fill the events `champion` and `closed` of those that the task emits."""
        for asset in (champion_asset(self.model), closed_asset(self.model)):
            if asset in self.outlets:
                context["outlet_events"][asset].extra = found
