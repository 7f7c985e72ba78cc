from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from include.errors import ServiceError
from include.rollout.decision import Decision, Verdict, decide_stage
from include.rollout.local import read_state
from include.spec import load_spec
from operators.hooks.model_server import ModelServerHook
from operators.rollouts import target_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from include.rollout.decision import RolloutState, Stage
    from include.spec import ModelSpec, RolloutSpec

REQUEST_TIMEOUT_S = 10.0


class CanarySettledTrigger(BaseTrigger):
    """Polls the place that serves until a version's stage of a rollout is decided, then sends the decision.

    What is decided, and how long it may take, is the server's state and the spec: a triggerer that is killed loses
    nothing. A server that does not answer for `step_timeout_s` makes the stage inconclusive.

    Args:
        model: Folder of the model below `include/models`.
        version: The version.
        stage: shadow or canary.
        share_pct: The canary's share in per cent.
        model_server_conn_id: Connection of the place that serves; its token is looked up here and kept nowhere.
    """

    def __init__(self, *, model: str, version: str, stage: Stage, share_pct: float, model_server_conn_id: str) -> None:
        super().__init__()
        self.model = model
        self.version = version
        self.stage = stage
        self.share_pct = share_pct
        self.model_server_conn_id = model_server_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes this trigger again."""
        return (
            "sensors.triggers.canary_settled.CanarySettledTrigger",
            {
                "model": self.model,
                "version": self.version,
                "stage": self.stage,
                "share_pct": self.share_pct,
                "model_server_conn_id": self.model_server_conn_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the decision is final."""
        import aiohttp

        spec = load_spec(self.model)
        rollout = spec.rollout
        loop = asyncio.get_running_loop()
        heard_at_s = loop.time()
        before: RolloutState | None = None
        async with self._reader(spec) as read:
            while True:
                try:
                    state = await read()
                    decision = self._decide(state, rollout, before=before)
                    before, heard_at_s = state, loop.time()
                except (aiohttp.ClientError, TimeoutError, ServiceError) as error:
                    self.log.warning("%s of %s: %r", self.stage, self.model, error)
                    decision = _unheard(silent_s=loop.time() - heard_at_s, rollout=rollout)
                if decision.is_final:
                    yield TriggerEvent(decision.to_json())
                    return
                await asyncio.sleep(rollout.poll_interval_s)

    @asynccontextmanager
    async def _reader(self, spec: ModelSpec) -> AsyncIterator[Callable[[], Awaitable[RolloutState]]]:
        """Yield what reads the state of the place that serves: the model server's in the loop, others' beside it."""
        import aiohttp

        if spec.rollout.target != "local":
            target = await asyncio.to_thread(target_of, spec, model_server_conn_id=self.model_server_conn_id)
            yield lambda: asyncio.to_thread(target.read, model=self.model)
            return
        client = await ModelServerHook(self.model_server_conn_id).aget_conn()
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with aiohttp.ClientSession(client.base_url, timeout=timeout) as session:

            async def read() -> RolloutState:
                async with session.get(f"/v2/router/{self.model}", headers=client.admin_headers()) as response:
                    response.raise_for_status()
                    return read_state(await response.json())

            yield read

    def _decide(self, state: RolloutState, rollout: RolloutSpec, *, before: RolloutState | None) -> Decision:
        return decide_stage(
            state, version=self.version, stage=self.stage, share_pct=self.share_pct, rollout=rollout, before=before
        )


def _unheard(*, silent_s: float, rollout: RolloutSpec) -> Decision:
    is_over = silent_s >= rollout.step_timeout_s and rollout.on_inconclusive != "hold"
    reason = f"the place that serves gave no usable answer for {silent_s:.0f} s of {rollout.step_timeout_s:.0f} s"
    verdict = Verdict.INCONCLUSIVE if is_over else Verdict.KEEP_WAITING
    return Decision(verdict=verdict, reasons=(reason,), evidence={"silent_s": round(silent_s, 1)})
