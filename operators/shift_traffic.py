from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from operators.rollout_operator import RolloutOperator
from operators.rollouts import DEPLOYED_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class ShiftTrafficOperator(RolloutOperator):
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
        share_pct: float | str,
        version: str = DEPLOYED_VERSION,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.share_pct = share_pct
        self.version = version

    def execute(self, context: Context) -> dict[str, Any]:
        """Set the share.

        Raises:
            BadInputError: The share is not possible.
            GateError: The version was taken out of the rollout meanwhile.
            ServiceError: The routes changed at the same moment; a retry sees how.
        """
        share_pct = float(self.share_pct)
        rollout = self.rollout(context)
        rollout.shift(self.version, share_pct=share_pct)
        return {"version": self.version, "share_pct": share_pct}
