"""Time that passes only when somebody waits: what takes hours in a cluster takes milliseconds in a test.

Every call is made: the operator, its trigger, both Kubernetes clients and HTTP are the real ones, and no wait is left
out. But a wait ends at once, and the cluster lives through it first. There are two ways of waiting, and both move the
clock: a blocking one by `time.sleep`, and an event loop that has nothing to do before its next timer, no answer of a
server under way, and no work in another thread. The wall clock (`time.time`, `datetime.now`) is the simulated one for
the process under test, `skew_s` off the cluster's.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
import ssl
import threading
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from unittest import mock

import kubernetes.client.rest
import kubernetes_asyncio.client.rest
import time_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.kubernetes.clock import SteppedClock
    from tests.kubernetes.cluster import Cluster

_IO_WAIT_S = 1.0
_IN_FLIGHT_S = 0.0005
_STREAM_S = 0.001
_TIMER_RESOLUTION_S = 1e-6
_real_sleep = time.sleep


class Killed(BaseException):
    """SIGKILL: whoever gets it does nothing more outside, whatever it still does inside."""


class Simulation:
    """The clock of a cluster and of the process under test, and the end of that process.

    Attributes:
        cluster: Lives through each wait.
        clock: Its clock.
        skew_s: How far the process's own clock is ahead of the cluster's.
        boundary: Called wherever the process touches what is outside of it, before and after: a call of the API, a
            message to its supervisor, a wait. What it raises ends the process there.
        passed: Called after each wait, for what others do by the clock.
    """

    def __init__(self, cluster: Cluster, clock: SteppedClock) -> None:
        self.cluster = cluster
        self.clock = clock
        self.skew_s = 0.0
        self.boundary: Callable[[], None] = lambda: None
        self.passed: Callable[[], None] = lambda: None
        self._began = clock.at
        self._under_way = 0
        self._wall: Any = None
        self._owner = threading.get_ident()

    @property
    def elapsed_s(self) -> float:
        """Seconds that have passed."""
        return self.clock.at - self._began

    def advance(self, wait_s: float) -> None:
        """Let time pass."""
        with self.cluster.lock:
            self.clock.at += max(0.0, wait_s)
            self.cluster.advance()
        self.set_wall_clock()
        self.passed()

    def set_wall_clock(self) -> None:
        """Show the process the time that its clock shows."""
        if self._wall is not None:
            self._wall.move_to(datetime.fromtimestamp(self.clock.at + self.skew_s, UTC), tick=False)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Take the place of time in this process, as long as the block lasts."""
        policy, before = _Policy(self), asyncio.get_event_loop_policy()
        context = ssl.create_default_context()
        with ExitStack() as stack:
            start = datetime.fromtimestamp(self.clock.at, UTC)
            self._wall = stack.enter_context(time_machine.travel(start, tick=False))
            patches: list[tuple[Any, str, Any]] = [
                (time, "sleep", self._sleep),
                (time, "monotonic", lambda: self.elapsed_s),
                # Each poll of the asynchronous hook makes a client, and each client reads the system's certificates.
                (ssl, "create_default_context", lambda *_args, **_kwargs: context),
                (kubernetes.client.rest.RESTClientObject, "request", self._blocking_calls()),
                (kubernetes_asyncio.client.rest.RESTClientObject, "request", self._asynchronous_calls()),
            ]
            for owner, name, new in patches:
                stack.enter_context(mock.patch.object(owner, name, new))
            asyncio.set_event_loop_policy(policy)
            try:
                yield
            finally:
                asyncio.set_event_loop_policy(before)
                self._wall = None

    def _sleep(self, wait_s: float) -> None:
        if threading.get_ident() != self._owner:
            _real_sleep(wait_s)
            return
        self.boundary()
        self.advance(wait_s)
        self.boundary()

    def _blocking_calls(self) -> Any:
        request = kubernetes.client.rest.RESTClientObject.request

        @functools.wraps(request)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.boundary()
            try:
                return request(*args, **kwargs)
            finally:
                self.set_wall_clock()
                self.boundary()

        return call

    def _asynchronous_calls(self) -> Any:
        request = kubernetes_asyncio.client.rest.RESTClientObject.request

        @functools.wraps(request)
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.boundary()
            self._under_way += 1
            try:
                return await request(*args, **kwargs)
            finally:
                self._under_way -= 1
                self.boundary()

        return call

    @property
    def is_waiting_for_others(self) -> bool:
        """Whether an answer or another thread's work is under way, for which real time must pass."""
        return self._under_way > 0

    def wait_for_streams(self) -> None:
        """Wait in real time until followers of a log have been sent what was printed by now."""
        while self.cluster.is_sending:
            _real_sleep(_STREAM_S)

    def count(self, change: int) -> None:
        """Count work of another thread."""
        self._under_way += change


class _Selector(selectors.DefaultSelector):
    """Waits for input and output in real time, and for timers in simulated time."""

    simulation: Simulation

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(_IN_FLIGHT_S)
        while not found and self.simulation.is_waiting_for_others:
            found = super().select(_IO_WAIT_S)
        if found:
            return found
        self.simulation.advance(timeout)
        self.simulation.wait_for_streams()
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop in simulated time."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        selector = _Selector()
        selector.simulation = simulation
        super().__init__(selector)
        self._clock_resolution = _TIMER_RESOLUTION_S

    def time(self) -> float:
        return self._simulation.elapsed_s

    def run_forever(self) -> None:
        self._simulation.cluster.is_polled = True
        try:
            super().run_forever()
        finally:
            self._simulation.cluster.is_polled = False

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        self._simulation.count(1)
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(lambda _future: self._simulation.count(-1))
        return future


class _Policy(asyncio.DefaultEventLoopPolicy):
    def __init__(self, simulation: Simulation) -> None:
        super().__init__()
        self._simulation = simulation

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _Loop(self._simulation)
