from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from include.rollout.choosing import choose_version
from operators.rollout_operator import RolloutOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class ChooseVersionOperator(RolloutOperator):
    """Chooses the version that a run deploys, once: the tasks after it name that one, whatever is trained meanwhile.

    It changes no routes. A version that comes too late, for the champion knows newer data by now, is recorded as
    superseded, loses the alias `challenger`, and the task is skipped. Killed and run again, it may choose anew: nothing
    was asked or deployed yet.

    Args:
        model: Folder of the model below `include/models`.
        version: Version to deploy; empty: the one with the alias `challenger`.
        skip_if_superseded: Whether to look if it comes too late ("True" from a template counts); else that is left to
            the deployment, which refuses such a version unless it is forced.
        mlflow_conn_id: Connection of the model registry.
        model_server_conn_id: Connection of the model server; it is not asked.
        ledger_conn_id: Connection of the ledger.

    Returns:
        `version`, `champion` (version or None), `window` and `gates` in words.
    """

    template_fields: ClassVar[Sequence[str]] = ("version", "skip_if_superseded")

    def __init__(self, *, version: str = "", skip_if_superseded: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.skip_if_superseded = skip_if_superseded

    def execute(self, context: Context) -> dict[str, Any]:
        """Choose.

        Raises:
            AirflowSkipException: A newer version has taken over.
            NotFoundError: There is no such version, or no challenger.
            ServiceError: MLflow does not answer.
        """
        rollout = self.rollout(context)
        choice = choose_version(rollout, self.version or None)
        if str(self.skip_if_superseded) == "True":
            self.skip_superseded(rollout, choice.version)
        self.log.info("%s v%s is to be deployed beside champion %s", self.model, choice.version, choice.champion)
        return asdict(choice)
