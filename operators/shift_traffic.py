from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from operators.hooks.ledger import LedgerHook
from operators.hooks.mlflow import MlflowHook
from operators.hooks.model_server import ModelServerHook
from operators.rollouts import DEPLOYED_VERSION, rollout_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class ShiftTrafficOperator(BaseOperator):
    """Makes a version the canary of a share of the requests; counting begins anew, unless it has that share already.

    A key stays with the canary as its share rises. Killed and run again, it ends in the same state.

    Args:
        model: Folder of the model below `include/models`.
        share_pct: Share of the requests in per cent, above 0 and below 100, in steps of 0.1.
        version: The version; by default the one that the task `deploy` found.
        mlflow_conn_id: Connection of the model registry.
        model_server_conn_id: Connection of the model server.
        ledger_conn_id: Connection of the ledger.

    Returns:
        `version` and `share_pct`.
    """

    template_fields: ClassVar[Sequence[str]] = ("share_pct", "version")

    def __init__(
        self,
        *,
        model: str,
        share_pct: float | str,
        version: str = DEPLOYED_VERSION,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        model_server_conn_id: str = ModelServerHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.share_pct = share_pct
        self.version = version
        self.mlflow_conn_id = mlflow_conn_id
        self.model_server_conn_id = model_server_conn_id
        self.ledger_conn_id = ledger_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Set the share.

        Raises:
            BadInputError: The share is not possible.
            GateError: The version was taken out of the rollout meanwhile.
        """
        share_pct = float(self.share_pct)
        rollout = rollout_of(
            context,
            model=self.model,
            mlflow_conn_id=self.mlflow_conn_id,
            model_server_conn_id=self.model_server_conn_id,
            ledger_conn_id=self.ledger_conn_id,
        )
        rollout.shift(self.version, share_pct=share_pct)
        return {"version": self.version, "share_pct": share_pct}
