from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import TaskDeferred

from include.errors import ServiceError
from include.rollout.decision import Decision, Verdict, decide_stage
from include.spec import load_spec
from operators.hooks.ledger import LedgerHook
from operators.hooks.mlflow import MlflowHook
from operators.hooks.model_server import ModelServerHook
from operators.rollouts import DEPLOYED_VERSION, rollout_of
from sensors.triggers.canary_settled import CanarySettledTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from include.rollout.decision import Stage

INLINE_WAIT_S = 3.0
"""Handing over to the triggerer and coming back takes a second or two: a shorter wait is cheaper in the worker."""


class CanarySettledSensor(BaseSensorOperator):
    """Waits until a version's shadow or canary stage is decided by what the model server counted.

    It passes when there is enough evidence that the challenger is not worse by the margins of the spec, in any measure.
    It fails, without a retry, when there is enough that it is worse (GateError), or when the evidence did not come
    within `step_timeout_s` or contradicts itself (InconclusiveError; with `on_inconclusive: hold` it waits on). A
    server that does not answer is waited for. Each end is recorded in the ledger. The count is kept by the server from
    the last change of the routes, so a worker or triggerer that is killed resumes where it was. Killing the task, or
    its timeout, leaves the traffic as it is.

    Args:
        model: Folder of the model below `include/models`.
        stage: shadow or canary.
        share_pct: The canary's share in per cent.
        version: The version; by default the one that the task `deploy` found.
        mlflow_conn_id: Connection of the model registry.
        model_server_conn_id: Connection of the model server.
        ledger_conn_id: Connection of the ledger.
        inline_wait_s: Seconds to wait in the worker before deferring to the triggerer.
    """

    template_fields: ClassVar[Sequence[str]] = ("version",)

    def __init__(
        self,
        *,
        model: str,
        stage: Stage = "canary",
        share_pct: float = 0.0,
        version: str = DEPLOYED_VERSION,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        model_server_conn_id: str = ModelServerHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        inline_wait_s: float = INLINE_WAIT_S,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.stage = stage
        self.share_pct = share_pct
        self.version = version
        self.mlflow_conn_id = mlflow_conn_id
        self.model_server_conn_id = model_server_conn_id
        self.ledger_conn_id = ledger_conn_id
        self.inline_wait_s = inline_wait_s

    def execute(self, context: Context) -> dict[str, Any]:
        """Look until the stage is decided or `inline_wait_s` is over; then hand over to the trigger.

        Raises:
            GateError: A measure is worse than the spec allows, or the routes were changed by somebody else.
            InconclusiveError: There was too little evidence in time.
        """
        rollout = load_spec(self.model).rollout
        until_s = time.monotonic() + self.inline_wait_s
        decision = self._look(context)
        while not decision.is_final and time.monotonic() + rollout.poll_interval_s < until_s:
            time.sleep(rollout.poll_interval_s)
            decision = self._look(context)
        if decision.is_final:
            return self._finish(context, decision)
        self.log.info("waiting: %s", "; ".join(decision.reasons))
        trigger = CanarySettledTrigger(
            model=self.model,
            version=self.version,
            stage=self.stage,
            share_pct=self.share_pct,
            model_server_conn_id=self.model_server_conn_id,
        )
        raise TaskDeferred(trigger=trigger, method_name="resume", timeout=timedelta(seconds=self.timeout))

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Record what the trigger decided; raise what `execute` raises."""
        return self._finish(context, Decision.from_json(event))

    def _look(self, context: Context) -> Decision:
        rollout = self._rollout(context)
        try:
            state = rollout.target.read(model=self.model)
        except ServiceError as error:
            # The trigger knows for how long silence is no verdict.
            return Decision(verdict=Verdict.KEEP_WAITING, reasons=(str(error),), evidence={})
        return decide_stage(
            state, version=self.version, stage=self.stage, share_pct=self.share_pct, rollout=rollout.spec.rollout
        )

    def _finish(self, context: Context, decision: Decision) -> dict[str, Any]:
        self.log.info("%s: %s", decision.verdict, "; ".join(decision.reasons))
        self._rollout(context).settle(self.version, decision, stage=self.stage, share_pct=self.share_pct)
        return decision.to_json()

    def _rollout(self, context: Context) -> Any:
        return rollout_of(
            context,
            model=self.model,
            mlflow_conn_id=self.mlflow_conn_id,
            model_server_conn_id=self.model_server_conn_id,
            ledger_conn_id=self.ledger_conn_id,
        )
