"""A scripted Kubernetes: the real HTTP API on a loopback port, in a thread, over a cluster that a test directs.

It is the tests' own, since what matters here is the life of a pod (scheduler, taints, image, grace, eviction, lost
node) under a clock that a test holds. kmock 0.8, the published one of its kind, stores objects and answers watches, but
has none of that, no logs and no label selectors, and would leave as much to write.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from tests.kubernetes.api import Api
from tests.kubernetes.clock import FastClock
from tests.kubernetes.cluster import Cluster

if TYPE_CHECKING:
    from tests.kubernetes.clock import Clock

_TICK_S = 0.005


class _RealTimeLoop(asyncio.SelectorEventLoop):
    """Runs by the real clock, whatever a test does to the clock of the code under test."""

    time = staticmethod(time.monotonic)


class ScriptedKubernetes:
    """A cluster with an API server; use it as a context manager.

    Its time runs `speed` times as fast as the tests', so that a pod that is pulled for a second is there at once. With
    a clock of the test's own, time passes only when the test says so.

    Attributes:
        cluster: What the API shows; a test directs it: `evict`, `preempt`, `out_of_memory`, `remove`, `faults`, ...
        url: Of the API server.
    """

    def __init__(self, *, speed: float = 20.0, clock: Clock | None = None) -> None:
        self.cluster = Cluster(clock=clock or FastClock(speed))
        self.url = ""
        self._ticks = clock is None
        self._loop = _RealTimeLoop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="kubernetes", daemon=True)

    def __enter__(self) -> Self:
        """Start it."""
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def config(self) -> dict[str, Any]:
        """Return what a kubeconfig says."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "scripted",
            "clusters": [{"name": "scripted", "cluster": {"server": self.url}}],
            "contexts": [{"name": "scripted", "context": {"cluster": "scripted", "user": "tests"}}],
            "users": [{"name": "tests", "user": {"token": "token-of-the-tests"}}],
        }

    @property
    def connection(self) -> dict[str, Any]:
        """Return the fields of an Airflow connection, for `FakeSupervisor.connections["kubernetes_default"]`."""
        return {"conn_type": "kubernetes", "extra": json.dumps({"kube_config": json.dumps(self.config)})}

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        runner = web.AppRunner(Api(self.cluster).app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*runner.addresses[0])
        self._ready.set()
        while not self._stop.is_set():
            if self._ticks:
                self.cluster.advance()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), timeout=_TICK_S if self._ticks else None)
        await runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
