"""Airflow around one task, with processes that die: scheduler, workers and triggerers in simulated time.

The operator runs in Airflow's own task runner, its trigger in an event loop of its own. What this module decides itself
is only what Airflow 3.3's scheduler, supervisor and triggerer do around them: a worker that is not heard of for 300 s
(`[scheduler] task_instance_heartbeat_timeout`) has failed its try, whatever the task's retry policy says; a triggerer
that is gone is followed by another one a minute later, one that was stopped by another at once; a failed try is
followed by the next after its retry delay. When a person fails or clears a running task or deletes its Dag run, the
worker's next heartbeat is refused, and it gets SIGTERM, and SIGKILL five seconds later; a trigger is cancelled, and its
`on_kill` runs.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException

from include.testing.supervisor import FakeSupervisor
from tests.kubernetes.fates import USERS, Fate, MappedAttempt, Process, Stage, is_timed, sigterm
from tests.kubernetes.simulation import Killed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow.sdk import BaseOperator
    from airflow.triggers.base import BaseTrigger

    from tests.kubernetes.simulation import Simulation

_HEARTBEAT_S = 300.0
_ESCALATION_S = 5.0
_PATIENCE_S = 30.0
"""How long a worker that is stopped may go on: the grace of its own pod."""
_ON_KILL_S = 30.0
"""`[triggerer] on_kill_timeout`."""
_SCHEDULED_S = 1.0
_MAX_TRIES = 40
_MAX_PROCESSES = 400


class UserActed(BaseException):
    """A person has failed or cleared the task, or deleted its Dag run, while a process of Airflow held it."""


@dataclass(kw_only=True)
class MortalSupervisor(FakeSupervisor):
    """A supervisor whose task's process may end at each message."""

    boundary: Callable[[], None] = lambda: None

    def send(self, msg: Any) -> Any:
        """Take a message and return the answer."""
        self.boundary()
        answer = super().send(msg)
        self.boundary()
        return answer


@dataclass(kw_only=True)
class Airflow:
    """Runs one task to its end.

    Attributes:
        simulation: Time, and where processes end.
        supervisor: What the task talks to.
        make_task: Makes the operator, as each process does when it reads the Dag file.
        fates: What becomes of its processes.
        re_entry_delay_s: Until a worker has room for a task whose trigger has fired.
        triggerer_delay_s: Until another triggerer takes over from one that is gone.
        began: Called with each of its processes.
        run_id: Of its Dag run.
        map_index: Of the task; -1: it is not mapped.
        state: Of the task, as the API shows it; `deleted`: its Dag run is.
        num_tries: That it took.
        processes: All that held it, in order.
        errors: What its tries and triggers raised.
        ended_at_s: When it had its last state.
    """

    simulation: Simulation
    supervisor: MortalSupervisor
    make_task: Callable[[], BaseOperator]
    fates: list[Fate] = field(default_factory=list)
    re_entry_delay_s: float = 3.0
    triggerer_delay_s: float = 60.0
    began: Callable[[Process], None] = lambda _process: None
    run_id: str = "manual__2013-04-01"
    map_index: int = -1
    state: str = "queued"
    num_tries: int = 0
    processes: list[Process] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    ended_at_s: float = 0.0
    _max_tries: int | None = None
    _is_dead: bool = False
    _dies_at_s: float | None = None
    _watching: asyncio.Task[Any] | None = None
    _unheard: tuple[Fate, BaseTrigger] | None = None

    def run(self) -> str:
        """Run the task, try after try, and return its last state."""
        while self.state not in ("success", "failed", "deleted"):
            if self.num_tries == _MAX_TRIES or len(self.processes) > _MAX_PROCESSES:
                return "stuck"
            self.num_tries += 1
            self._try()
        self.ended_at_s = self.simulation.elapsed_s
        return self.state

    def _try(self) -> None:
        task = self.make_task()
        if self._max_tries is None:
            self._max_tries = task.retries
        attempt = MappedAttempt(
            task=task,
            map_index=self.map_index,
            supervisor=self.supervisor,
            try_number=self.num_tries,
            dag_run={"run_id": self.run_id, "partition_key": "2013-03"},
            first_message=len(self.supervisor.sent),
            max_tries=self._max_tries,
        )
        delay_s = task.retry_delay.total_seconds()
        try:
            self._hold(attempt)
            self.state = attempt.state
            delay_s = (attempt.retry_delay or task.retry_delay).total_seconds()
        except Killed:
            self.simulation.advance(_HEARTBEAT_S)
            self.state = "up_for_retry" if self.num_tries <= self._max_tries else "failed"
        except UserActed as acted:
            delay_s = self._follow(str(acted), task)
        if attempt.error is not None and self.state != "success":
            self.errors.append(f"{type(attempt.error).__name__}: {attempt.error}")
        if self.state in ("up_for_retry", "none"):
            self.simulation.advance(delay_s)

    def _hold(self, attempt: MappedAttempt) -> None:
        """Hand a try from process to process until it has ended."""
        self._work(attempt)
        while attempt.state == "deferred":
            self._watch(attempt)
            if attempt.state == "queued":
                self.state = "queued"
                self.simulation.advance(self.re_entry_delay_s)
                self._work(attempt, "re_entry")

    def _follow(self, wish: str, task: BaseOperator) -> float:
        """Do what a person wished; return the seconds until the next try, if there is one.

        A task that is cleared while it runs is restarted like one that failed; one that is deferred is as if new, and
        has its retries anew.
        """
        was_deferred = self.state == "deferred"
        self.state = {"fail": "failed", "delete": "deleted"}.get(wish, "none" if was_deferred else "up_for_retry")
        if was_deferred and wish == "clear":
            self._max_tries = self.num_tries + task.retries
        return _SCHEDULED_S if was_deferred else task.retry_delay.total_seconds()

    def _work(self, attempt: MappedAttempt, stage: Stage = "first") -> None:
        self.state = "running"
        attempt.task = self.make_task()
        fate = self._begin(stage)
        with suppress(Killed):  # or the task runner has taken it for an error of the task's
            attempt.execute()
        self._end()
        if fate is not None and fate.is_wish:
            raise UserActed(fate.by)
        if self._is_dead:
            raise Killed

    def _watch(self, attempt: MappedAttempt) -> None:
        """Do what a triggerer does."""
        self.state = "deferred"
        trigger = attempt.make_trigger()
        fate = self._begin("watch")
        try:
            event = asyncio.run(self._first_event(trigger))
        except (Killed, asyncio.CancelledError) as ended:
            self._end()
            if fate is not None and fate.is_wish:
                self._unheard = (fate, trigger) if fate.heard_at else None
                raise UserActed(fate.by) from None
            self.simulation.advance(self.triggerer_delay_s if isinstance(ended, Killed) else _SCHEDULED_S)
            return
        except Exception as error:  # noqa: BLE001 - the triggerer takes whatever a trigger raises
            self._end()
            self.errors.append(f"trigger: {error!r}")
            attempt._queue("__fail__", {"error": "Trigger failure", "traceback": [str(error)]})
        else:
            self._end()
            if fate is not None and fate.is_wish:  # the server takes no event any more
                raise UserActed(fate.by)
            attempt.fire(event)

    async def _first_event(self, trigger: BaseTrigger) -> Any:
        """Run a trigger to its first event; what cancels it says whether a person has."""
        self._watching = asyncio.current_task()
        try:
            async for event in trigger.run():
                return event
        except asyncio.CancelledError as cancelled:
            if cancelled.args:
                with suppress(Exception):
                    await asyncio.wait_for(trigger.on_kill(), timeout=_ON_KILL_S)
            raise
        finally:
            self._watching = None
            with suppress(Exception):
                await trigger.cleanup()
        raise AirflowException("the trigger ended without an event")

    def _begin(self, stage: Stage) -> Fate | None:
        """Begin a process; let it end where its fate says."""
        process = Process(stage=stage)
        self.processes.append(process)
        process.calls = (len(self.simulation.cluster.calls),) * 2
        self._is_dead, self._dies_at_s = False, None
        fate = next((each for each in self.fates if each.is_for(stage)), None)

        def boundary() -> None:
            process.boundaries += 1
            if stage == "first":
                self._hear(process)
            if self._dies_at_s is not None and self.simulation.elapsed_s >= self._dies_at_s:
                self._is_dead = True
            if self._is_dead:
                raise Killed
            if fate is not None and not fate.happened and process.boundaries >= fate.at_boundary:
                self._strike(fate)

        self.simulation.boundary = self.supervisor.boundary = boundary
        self.began(process)
        return fate

    def _hear(self, process: Process) -> None:
        """Let the triggerer hear late that its trigger is not wanted any more: the next try has begun already."""
        if self._unheard is None or process.boundaries < (self._unheard[0].heard_at or 0):
            return
        (_, trigger), self._unheard = self._unheard, None
        with self._untouched(), suppress(Exception):
            asyncio.run(trigger.on_kill())

    def _strike(self, fate: Fate) -> None:
        """End a process, or tell it to end."""
        if fate.by == "time_out" and not is_timed():
            return
        fate.happened = True
        fate.struck()
        if fate.by == "time_out":
            signal.raise_signal(signal.SIGALRM)
        elif fate.stage == "watch":
            if fate.is_told and self._watching is not None:
                self._watching.cancel(*((fate.by,) if fate.by in USERS else ()))
                return
            self._is_dead = True
            raise Killed
        else:
            self._end_worker(fate)

    def _end_worker(self, fate: Fate) -> None:
        """Send SIGTERM if there is somebody who does, and SIGKILL after a while, at once if it is too slow to go on."""
        if fate.is_told:
            wait_s = _PATIENCE_S if fate.by == "stop" else _ESCALATION_S
            self._dies_at_s = self.simulation.elapsed_s + wait_s
            with self._untouched():
                sigterm(self.errors)
            if fate.goes_on:
                return
            with self._untouched():
                self.simulation.advance(wait_s)
        self._is_dead = True
        raise Killed

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """Let nothing befall what happens in a block."""
        boundary = self.simulation.boundary
        self.simulation.boundary = self.supervisor.boundary = lambda: None
        try:
            yield
        finally:
            self.simulation.boundary = self.supervisor.boundary = boundary

    def _end(self) -> None:
        process = self.processes[-1]
        process.calls = (process.calls[0], len(self.simulation.cluster.calls))
        self.simulation.boundary = self.supervisor.boundary = lambda: None
