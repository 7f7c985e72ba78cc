"""The processes of Airflow that hold a task, and how one of them comes to its end before its time."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from airflow.sdk.execution_time.timeout import TimeoutPosix

from include.testing.attempt import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

Stage = Literal["first", "watch", "re_entry"]
"""A worker that begins a try, a triggerer, a worker that goes on after one."""
By = Literal["kill", "stop", "time_out", "fail", "clear", "delete"]
"""`kill`: SIGKILL; `stop`: SIGTERM to it, as when its machine is drained; `time_out`: the task's `execution_timeout`;
the others are a person's wishes: the task is marked failed, cleared, its Dag run deleted."""
USERS = ("fail", "clear", "delete")


@dataclass(kw_only=True)
class MappedAttempt(Attempt):
    """A try of one of the tasks that a mapped one has become.

    Attributes:
        map_index: Which of them; -1: it is not mapped.
    """

    map_index: int = -1

    def _task_instance(self) -> RuntimeTaskInstance:
        instance = super()._task_instance()
        instance.map_index = self.map_index
        return instance


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
class Fate:
    """When a process of Airflow ends before its time, and how.

    Attributes:
        stage: Which kind of process; the first one of it.
        at_boundary: At which of its contacts with the outside, from 1.
        by: What ends it.
        skip: Processes of that kind that are left alone first.
        heard_at: When the process hears of a person's wish. 0: at once; None: never, since it has died just then;
            more: the triggerer hears of it at that contact of the worker that has begun the next try.
        goes_on: Whether a worker that was told to end goes on with what it does until it is killed.
        struck: Called when it comes to that.
        happened: Whether it came to that.
    """

    stage: Stage
    at_boundary: int
    by: By = "kill"
    skip: int = 0
    heard_at: int | None = 0
    goes_on: bool = False
    struck: Callable[[], None] = lambda: None
    happened: bool = False

    @property
    def is_told(self) -> bool:
        """Whether the process hears that it has to end."""
        return self.by == "stop" or (self.by in USERS and self.heard_at == 0)

    @property
    def is_wish(self) -> bool:
        """Whether a person has wished something of the task."""
        return self.happened and self.by in USERS

    def is_for(self, stage: Stage) -> bool:
        """Return whether it may strike a new process of a stage, and count the process."""
        if self.stage != stage or self.happened:
            return False
        self.skip -= 1
        return self.skip < 0


def is_timed() -> bool:
    """Return whether a task's `execution_timeout` runs now: it covers what a worker does, and no wait in between."""
    handler, (left_s, _) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    return left_s > 0 and isinstance(getattr(handler, "__self__", None), TimeoutPosix)


def sigterm(errors: list[str]) -> None:
    """Send SIGTERM to this process; what its handler raises is kept."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - SIGKILL follows anyway
        errors.append(f"on SIGTERM: {error!r}")
