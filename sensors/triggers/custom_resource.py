from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from include.cluster.conditions import Rule, Verdict, conditions, decide
from include.errors import ServiceError
from operators.hooks.kubernetes_calls import RefusedError
from operators.hooks.kubernetes_objects import AsyncKubernetesObjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class CustomResourceTrigger(BaseTrigger):
    """Fires when an object of Kubernetes fulfils a rule, or is gone, or when the time is over.

    An API that does not answer, or refuses, is asked again. A triggerer that restarts begins to count its time anew.

    Args:
        conn_id: Connection of Kubernetes.
        path: Of the object.
        until: Rules of which one must hold.
        failed_if: Rules of which none may.
        poll_s: Seconds between two looks.
        timeout_s: Seconds to wait at most.
        may_come_later: Whether an object that is not there is waited for.
        delete_on_kill: Whether the object is deleted when a person fails or clears the task.
    """

    def __init__(
        self,
        *,
        conn_id: str,
        path: str,
        until: Sequence[str],
        failed_if: Sequence[str],
        poll_s: float,
        timeout_s: float,
        may_come_later: bool,
        delete_on_kill: bool,
    ) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.path = path
        self.until = tuple(until)
        self.failed_if = tuple(failed_if)
        self.poll_s = poll_s
        self.timeout_s = timeout_s
        self.may_come_later = may_come_later
        self.delete_on_kill = delete_on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer makes the trigger from."""
        kwargs = {
            "conn_id": self.conn_id,
            "path": self.path,
            "until": list(self.until),
            "failed_if": list(self.failed_if),
            "poll_s": self.poll_s,
            "timeout_s": self.timeout_s,
            "may_come_later": self.may_come_later,
            "delete_on_kill": self.delete_on_kill,
        }
        return f"{type(self).__module__}.{type(self).__name__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every `poll_s` seconds; yield one event: verdict, words, and the conditions by type."""
        api, loop = AsyncKubernetesObjects(self.conn_id), asyncio.get_running_loop()
        until, failed_if = [Rule.parse(text) for text in self.until], [Rule.parse(text) for text in self.failed_if]
        ends_s, said = loop.time() + self.timeout_s, ""
        while True:
            found: dict[str, Any] | None = None
            try:
                found = await api.get(self.path)
                verdict, words = decide(found, until=until, failed_if=failed_if)
            except (RefusedError, ServiceError) as error:  # a right or a token that is gone may come back
                verdict, words = Verdict.WAIT, str(error)
            if verdict is Verdict.GONE and self.may_come_later:
                verdict = Verdict.WAIT
            if verdict is Verdict.WAIT and loop.time() >= ends_s:
                verdict = Verdict.TIMED_OUT
            if verdict is not Verdict.WAIT:
                by_type = {str(each.get("type")): str(each.get("status")) for each in conditions(found or {})}
                yield TriggerEvent({"verdict": verdict.value, "words": words, "conditions": by_type})
                return
            if words != said:
                self.log.info("%s: %s", self.path.rpartition("/")[2], words)
                said = words
            await asyncio.sleep(self.poll_s)

    async def on_kill(self) -> None:
        """Delete the object, if the task has made it."""
        if self.delete_on_kill:
            await AsyncKubernetesObjects(self.conn_id).delete(self.path)
