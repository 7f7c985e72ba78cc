"""Airflow around one task, with processes that die: scheduler, workers and triggerers in simulated time.

The operator runs in Airflow's own task runner, its trigger in an event loop of its own. What this module decides itself
is only what Airflow's scheduler and triggerer do around them: a worker that is not heard of for 300 s
(`[scheduler] task_instance_heartbeat_timeout`) has failed its try, whatever the task's retry policy says; a triggerer
that is gone is followed by another one a minute later; a failed try is followed by the next after its retry delay.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk.exceptions import AirflowException

from include.testing.attempt import Attempt
from include.testing.supervisor import FakeSupervisor
from tests.kubernetes.simulation import Killed

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import BaseOperator

    from tests.kubernetes.simulation import Simulation

Stage = Literal["first", "watch", "re_entry"]
"""A worker that begins a try, a triggerer, a worker that goes on after one."""

_HEARTBEAT_S = 300.0
_ESCALATION_S = 5.0
_MAX_TRIES = 40
_MAX_PROCESSES = 400


class CancelledByUser(BaseException):
    """A person has marked the task as failed while its process ran."""


@dataclass(kw_only=True)
class Fate:
    """When a process of Airflow ends before its time.

    Attributes:
        stage: Which kind of process; the first one of it.
        at_boundary: At which of its contacts with the outside, from 1.
        skip: Processes of that kind that are left alone first.
        with_warning: SIGTERM first, and SIGKILL five seconds later; else SIGKILL.
        cancelled: A person marks the task as failed: SIGTERM, SIGKILL, no retry; a trigger's `on_kill` runs.
        struck: Called when it comes to that.
        happened: Whether it came to that.
    """

    stage: Stage
    at_boundary: int
    skip: int = 0
    with_warning: bool = False
    cancelled: bool = False
    struck: Callable[[], None] = lambda: None
    happened: bool = False

    def is_for(self, stage: Stage) -> bool:
        """Return whether it may strike a new process of a stage, and count the process."""
        if self.stage != stage or self.happened:
            return False
        self.skip -= 1
        return self.skip < 0


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
class Process:
    """One worker or triggerer that holds the task.

    Attributes:
        stage: Which.
        boundaries: How often it touched what is outside.
        calls: Calls of Kubernetes' API in it: number of the first one and of the one after the last.
    """

    stage: Stage
    boundaries: int = 0
    calls: tuple[int, int] = (0, 0)


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
        state: Of the task.
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
    state: str = "queued"
    num_tries: int = 0
    processes: list[Process] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    ended_at_s: float = 0.0

    def run(self) -> str:
        """Run the task, try after try, and return its last state."""
        while self.state not in ("success", "failed"):
            if self.num_tries == _MAX_TRIES or len(self.processes) > _MAX_PROCESSES:
                return "stuck"
            self.num_tries += 1
            self._try()
        self.ended_at_s = self.simulation.elapsed_s
        return self.state

    def _try(self) -> None:
        task = self.make_task()
        attempt = Attempt(
            task=task,
            supervisor=self.supervisor,
            try_number=self.num_tries,
            dag_run={"run_id": "manual__2013-04-01", "partition_key": "2013-03"},
            first_message=len(self.supervisor.sent),
        )
        try:
            self._work(attempt)
            while attempt.state == "deferred":
                self._watch(attempt)
                if attempt.state == "queued":
                    self.simulation.advance(self.re_entry_delay_s)
                    self._work(attempt, "re_entry")
            self.state = attempt.state
            delay = attempt.retry_delay or task.retry_delay
        except Killed:
            self.simulation.advance(_HEARTBEAT_S)
            self.state, delay = ("up_for_retry" if self.num_tries <= task.retries else "failed"), task.retry_delay
        except CancelledByUser:
            self.state, delay = "failed", task.retry_delay
        if attempt.error is not None and self.state != "success":
            self.errors.append(f"{type(attempt.error).__name__}: {attempt.error}")
        if self.state == "up_for_retry":
            self.simulation.advance(delay.total_seconds())

    def _work(self, attempt: Attempt, stage: Stage = "first") -> None:
        attempt.task = self.make_task()
        fate = self._begin(stage)
        try:
            attempt.execute()
        finally:
            self._end()
        if fate is not None and fate.happened:  # the task runner took it for an error of the task's
            raise CancelledByUser if fate.cancelled else Killed

    def _watch(self, attempt: Attempt) -> None:
        """Do what a triggerer does."""
        trigger = attempt.make_trigger()
        fate = self._begin("watch")
        try:
            event = asyncio.run(_first_event(trigger.run()))
        except Killed:
            self._end()
            if fate is not None and fate.cancelled:
                asyncio.run(trigger.on_kill())
                raise CancelledByUser from None
            self.simulation.advance(self.triggerer_delay_s)
            return
        except Exception as error:  # noqa: BLE001 - the triggerer takes whatever a trigger raises
            self.errors.append(f"trigger: {error!r}")
            attempt._queue("__fail__", {"error": "Trigger failure", "traceback": [str(error)]})
        else:
            attempt.fire(event)
        self._end()

    def _begin(self, stage: Stage) -> Fate | None:
        """Begin a process; let it end where its fate says."""
        process = Process(stage=stage)
        self.processes.append(process)
        process.calls = (len(self.simulation.cluster.calls),) * 2
        fate = next((each for each in self.fates if each.is_for(stage)), None)

        def boundary() -> None:
            process.boundaries += 1
            if fate is not None and process.boundaries >= fate.at_boundary:
                self._strike(fate)

        self.simulation.boundary = self.supervisor.boundary = boundary
        self.began(process)
        return fate

    def _strike(self, fate: Fate) -> None:
        """End a process, or keep it dead."""
        if not fate.happened:
            fate.happened = True
            fate.struck()
            if fate.stage != "watch" and (fate.with_warning or fate.cancelled):
                boundary = self.simulation.boundary
                self.simulation.boundary = self.supervisor.boundary = lambda: None
                try:
                    signal.raise_signal(signal.SIGTERM)
                except (Exception, SystemExit) as error:  # noqa: BLE001 - SIGKILL follows anyway
                    self.errors.append(f"on SIGTERM: {error!r}")
                self.simulation.advance(_ESCALATION_S)
                self.simulation.boundary = self.supervisor.boundary = boundary
        raise CancelledByUser if fate.stage != "watch" and fate.cancelled else Killed

    def _end(self) -> None:
        process = self.processes[-1]
        process.calls = (process.calls[0], len(self.simulation.cluster.calls))
        self.simulation.boundary = self.supervisor.boundary = lambda: None


async def _first_event(events: Any) -> Any:
    async for event in events:
        return event
    raise AirflowException("the trigger ended without an event")
