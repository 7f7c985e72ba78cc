from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from include.errors import ServiceError
from include.training.failure_kinds import Failure, FailureKind
from include.training.pod_events import about, seen_at
from include.training.pod_status import phase
from include.training.sweep import has_ended
from include.training.watch import End, Sight, Watch, Watcher
from operators.hooks.kubernetes_calls import RefusedError, object_path
from operators.hooks.kubernetes_objects import AsyncKubernetesObjects
from sensors.triggers.pod_log import Place, PodLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_LAST_WORDS_S = 10
"""For so long the rest of a log is waited for, when its pod has ended or is gone."""
_AFTER_KILL_S = 20
"""For so long what a trainer says that was told to end; the triggerer leaves `on_kill` 30 s."""


class RemoteTrainingTrigger(BaseTrigger):
    """Fires when a training on Kubernetes is over, cannot start, or is seen no more; until then it passes on its log.

    It decides nothing about success: that takes the result, which a worker reads. A triggerer that restarts goes on
    where it was. When a person fails or clears the task, it deletes the work, which gets SIGTERM and its grace.

    Args:
        conn_id: Connection of Kubernetes.
        watch: Fields of an `include.training.watch.Watch`.
    """

    def __init__(self, *, conn_id: str, watch: Mapping[str, Any]) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.watch = dict(watch)
        self._watch = Watch(**self.watch)
        self._api = AsyncKubernetesObjects(conn_id)
        self._logs: dict[str, PodLog] = {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer makes the trigger from."""
        return f"{type(self).__module__}.{type(self).__name__}", {"conn_id": self.conn_id, "watch": self.watch}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every `poll_s` seconds; yield one event."""
        watcher, loop = Watcher(watch=self._watch), asyncio.get_running_loop()
        try:
            while True:
                end: End | None
                try:
                    sight = await self._look()
                    await self._pass_on_logs(sight)
                    end = watcher.decide(sight, now_s=loop.time())
                except (RefusedError, ServiceError) as error:  # a right or a token that is gone may come back
                    end = watcher.silent(now_s=loop.time(), error=str(error))
                if watcher.words:
                    self.log.info("%s: %s", self._watch.owner.rpartition("/")[2], watcher.words)
                if end is not None:
                    if end.reason in ("ended", "gone"):
                        await self._pass_on_last_words(_LAST_WORDS_S)
                    yield TriggerEvent(end.to_json())
                    return
                await asyncio.sleep(self._watch.poll_s)
        finally:
            for log in self._logs.values():
                log.stop()

    async def on_kill(self) -> None:
        """Delete the work, and pass on whether it has saved a checkpoint: a person has ended or cleared the task."""
        await self._api.delete(self._watch.owner, grace_s=int(self._watch.grace_s))
        name, failure = self._watch.owner.rpartition("/")[2], Failure(kind=FailureKind.CANCELLED)
        then = f"It has {self._watch.grace_s:g} s to save a checkpoint."
        self.log.info("%s: got %s. %s %s", name, failure.summary, then, failure.remedy)
        await self._pass_on_last_words(_AFTER_KILL_S)

    async def _look(self) -> Sight:
        owner = await self._api.get(self._watch.owner)
        pods = [owner] if owner else []
        if self._watch.selector:
            found = await self._api.get(self._path("pods"), labelSelector=self._watch.selector) or {}
            pods = sorted(found.get("items") or (), key=_name)
        if owner is None and all(has_ended(pod) for pod in pods):
            return Sight(owner=None)
        owner = owner or told_to_end(self._watch.owner)
        waits = [found for found in (owner, *pods) if phase(found) not in ("Running", "Succeeded")]
        return Sight(owner=owner, pods=pods, events=await self._events(waits))

    async def _events(self, objects: list[Any]) -> list[Any]:
        """Return the events about objects, the newest last; without the right to read them there are none."""
        found: list[Any] = []
        try:
            for each in {_name(each): each for each in objects}.values():
                about_it = f"involvedObject.name={_name(each)}"
                told = await self._api.get(self._path("events"), fieldSelector=about_it) or {}
                found.extend(about(each, told.get("items") or ()))
        except RefusedError:
            return []
        return sorted(found, key=seen_at)

    async def _pass_on_logs(self, sight: Sight) -> None:
        if self._watch.until_gone:
            return
        live = set()
        for pod in sight.pods:
            path = self._path("pods", _name(pod))
            if phase(pod) not in ("Pending", "Unknown") and path not in self._logs:
                since = Place.noted(pod)
                self._logs[path] = PodLog(self._api, path=path, container=self._watch.container, since=since)
            if phase(pod) in ("Running", "Unknown"):
                live.add(path)
        for path, log in self._logs.items():
            log.follow(is_over=path not in live)
            prefix = f"[{path.rpartition('/')[2]}] " if self._watch.selector else ""
            for line in await log.new_lines():
                self.log.info("%s%s", prefix, line)

    async def _pass_on_last_words(self, num_looks: int) -> None:
        """Wait for what is left of the logs: a stream may give more than is to be had from a pod that is gone."""
        for _ in range(num_looks):
            if all(log.is_complete for log in self._logs.values()):
                break
            await asyncio.sleep(1)
            await self._pass_on_logs(Sight(owner=None))

    def _path(self, plural: str, name: str = "") -> str:
        return object_path(api_version="v1", plural=plural, namespace=self._watch.namespace, name=name)


class PauseTrigger(BaseTrigger):
    """Fires after a while, by its own steady clock.

    Args:
        wait_s: Seconds.
    """

    def __init__(self, *, wait_s: float) -> None:
        super().__init__()
        self.wait_s = wait_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer makes the trigger from."""
        return f"{type(self).__module__}.{type(self).__name__}", {"wait_s": self.wait_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait; yield one event."""
        await asyncio.sleep(self.wait_s)
        yield TriggerEvent({})


def told_to_end(path: str) -> dict[str, Any]:
    """Return what stands for an owner that is gone while its pods are still there."""
    return {"metadata": {"name": path.rpartition("/")[2], "deletionTimestamp": "before it was gone"}}


def _name(found: Mapping[str, Any]) -> str:
    return str((found.get("metadata") or {}).get("name") or "")
