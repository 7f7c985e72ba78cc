from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from operators.rollout_operator import RolloutOperator
from operators.rollouts import DEPLOYED_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class PromoteModelOperator(RolloutOperator):
    """Gives a version all requests: routes, then the ledger, then MLflow's alias `champion`.

    The champion before stays loaded, so that going back takes no load; older versions are unloaded. The alias
    `challenger` is removed. Killed and run again, it ends in the same state, with one entry in the ledger.

    Args:
        model: Folder of the model below `include/models`.
        version: The version; by default the one that the task `deploy` found.
        approved_by: Who approved it, for the ledger; empty: who approved the deployment.
        mlflow_conn_id: Connection of the model registry.
        model_server_conn_id: Connection of the model server.
        ledger_conn_id: Connection of the ledger.

    Returns:
        `model`, `version`, `outcome` (bootstrap, promote, or roll_back: that made it champion already), `previous`
        (version or None), `ledger_seq`; the events of the outlets `<model>.champion` and `<model>.closed` carry the
        same.
    """

    template_fields: ClassVar[Sequence[str]] = ("version", "approved_by")

    def __init__(
        self,
        *,
        version: str = DEPLOYED_VERSION,
        approved_by: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.approved_by = approved_by

    def execute(self, context: Context) -> dict[str, Any]:
        """Promote the version.

        Raises:
            GateError: The version was taken out of the rollout meanwhile.
            ServiceError: Routes or ledger changed at the same moment; a retry sees how.
        """
        rollout = self.rollout(context)
        entry = rollout.promote(self.version, approved_by=self.approved_by)
        found = {
            "model": self.model,
            "version": self.version,
            "outcome": entry.kind,
            "previous": entry.evidence["previous"],
            "ledger_seq": entry.seq,
        }
        self.announce(context, found)
        return found
