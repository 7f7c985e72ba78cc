from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from operators.rollout_operator import RolloutOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from include.rollout.ledger import Entry

_NOTHING_TO_TAKE_OUT: dict[str, Any] = {
    "version": None,
    "outcome": "nothing to take out",
    "champion": None,
    "reasons": ["a task of the rollout failed while no challenger had traffic; its log says why"],
    "ledger_seq": None,
}


def _outcome_of(entry: Entry) -> dict[str, Any]:
    return {
        "version": entry.subject,
        "outcome": entry.kind,
        "champion": entry.evidence["champion"],
        "reasons": entry.evidence["reasons"],
        "ledger_seq": entry.seq,
    }


class RollBackModelOperator(RolloutOperator):
    """Takes a version out of the traffic.

    With the scope `challenger`, a version that is being rolled out leaves canary and shadow, and loses the alias
    `challenger`; the champion stays. With the scope `champion`, all requests go back to the champion before this one.
    Both end in one entry of the ledger, with the evidence; when there is no challenger to take out, in none. Killed
    and run again, it goes back once only.

    Args:
        model: Folder of the model below `include/models`.
        scope: What to take out.
        version: `challenger`: the version to take out, empty: the one with the alias. `champion`: the version to go
            back to, empty: the champion before, as the ledger has it.
        reason: Why, for the ledger; of a challenger the evidence says it.
        mlflow_conn_id: Connection of the model registry.
        model_server_conn_id: Connection of the model server.
        ledger_conn_id: Connection of the ledger.

    Returns:
        `model`, `version` (taken out or gone back to, None when there was nothing to take out), `outcome`, `champion`,
        `reasons`, `ledger_seq`; the events of the outlets `<model>.champion` and `<model>.closed` carry the same.
    """

    template_fields: ClassVar[Sequence[str]] = ("version", "reason")

    def __init__(
        self,
        *,
        scope: Literal["challenger", "champion"] = "challenger",
        version: str = "",
        reason: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scope = scope
        self.version = version
        self.reason = reason

    def execute(self, context: Context) -> dict[str, Any]:
        """Roll back.

        Raises:
            NotFoundError: There is no champion to go back to.
            SetupError: The challenger answers all requests already; its promotion was cut off.
            GateError: The former champion had to be loaded again and scores its golden rows differently.
        """
        rollout = self.rollout(context)
        if self.scope == "challenger":
            entry: Entry | None = rollout.withdraw(self.version or None)
        else:
            entry = rollout.roll_back(self.version or None, reason=self.reason)
        found = {"model": self.model, **(_outcome_of(entry) if entry else _NOTHING_TO_TAKE_OUT)}
        self.announce(context, found)
        return found
