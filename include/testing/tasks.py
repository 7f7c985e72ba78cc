"""Run one task through Airflow's real task runner: in this process, in milliseconds, with no server and no database."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
import time_machine
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.supervisor import set_supervisor_comms

from include.testing.attempt import Attempt, WhenDeferred
from include.testing.process import borrowed_process
from include.testing.supervisor import FakeSupervisor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from airflow.sdk import BaseOperator

    from include.testing.attempt import Deferral
    from include.testing.supervisor import AssetEvent


class TaskNotSuccessfulError(AssertionError):
    """A test asked for what a task returned, and the task did not end as a success."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """How one try of a task ended.

    Attributes:
        state: `success`, `failed`, `skipped`, `up_for_retry`, `up_for_reschedule`, `deferred` or `awaiting_input`.
        xcom: What the task returned.
        xcoms: All that it pushed, by key.
        rendered: Its template fields after rendering, as the UI shows them.
        asset_events: What it emitted; nothing unless it succeeded.
        deferrals: Each hand-over to the triggerer, in order.
        skipped: Ids of the tasks that it had skipped.
        error: What it raised, if it failed.
        retry_delay: Until the next try, if a retry policy names it.
        log: What was logged, one line an event.
    """

    state: str
    xcom: Any = None
    xcoms: Mapping[str, Any] = field(default_factory=dict)
    rendered: Mapping[str, Any] = field(default_factory=dict)
    asset_events: tuple[AssetEvent, ...] = ()
    deferrals: tuple[Deferral, ...] = ()
    skipped: tuple[str, ...] = ()
    error: BaseException | None = None
    retry_delay: timedelta | None = None
    log: str = ""

    def returned(self) -> Any:
        """Return what the task returned.

        Raises:
            BaseException: What the task raised, if it failed.
            AirflowSkipException: It was skipped.
            TaskNotSuccessfulError: It ended in another state than success.
        """
        if self.error is not None:
            raise self.error
        if self.state == "skipped":
            raise AirflowSkipException(self.log)
        if self.state != "success":
            raise TaskNotSuccessfulError(
                f"the task must have succeeded; got {self.state}. Nothing was returned. Its log:\n{self.log}"
            )
        return self.xcom


def run_task(
    operator: BaseOperator,
    *,
    partition: str | None = None,
    supervisor: FakeSupervisor | None = None,
    run_id: str = "run-1",
    try_number: int = 1,
    when_deferred: WhenDeferred = "run",
    trigger_timeout_s: float = 30,
    now: datetime | None = None,
    **dag_run: Any,
) -> TaskResult:
    """Run one try of a task: render, execute, defer and resume, report, call back.

    It needs the main thread, since Airflow ends a task that takes too long by a signal; what it does to signals and the
    environment is undone.

    Args:
        operator: The task. Without a Dag it gets one of its own.
        partition: Partition key of the Dag run.
        supervisor: What the task talks to; give the same one to tasks that share connections, XComs and events.
        run_id: Of the Dag run; a retry or a clear of the same task has the same one.
        try_number: From 1. After `operator.retries` more tries a failure is final.
        when_deferred: `run`: run the trigger here and go on. `stop`: end as `deferred`. `time_out`: go on as if the
            trigger had not fired in time.
        trigger_timeout_s: For how long a trigger may run here, in seconds.
        now: When the task begins, by its own clock, which goes on from there; None: now.
        **dag_run: Other fields of the Dag run, such as `conf`, `triggering_user_name` or `logical_date`.

    Raises:
        TimeoutError: The trigger did not fire in time.
    """
    if not operator.has_dag():
        operator.dag = DAG(dag_id="dag_of_the_test", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC))
    attempt = Attempt(
        task=operator,
        supervisor=FakeSupervisor() if supervisor is None else supervisor,
        try_number=try_number,
        dag_run={"run_id": run_id, "partition_key": partition, **dag_run},
    )
    formatters: list[Any] = [structlog.stdlib.PositionalArgumentsFormatter(), structlog.processors.format_exc_info]
    with (
        borrowed_process(),
        structlog.testing.capture_logs(formatters) as log,
        set_supervisor_comms(attempt.supervisor),
        nullcontext() if now is None else time_machine.travel(now),
    ):
        attempt.run(when_deferred=when_deferred, trigger_timeout_s=trigger_timeout_s)
        xcoms = attempt.xcoms
    return TaskResult(
        state=attempt.state,
        xcom=xcoms.get("return_value"),
        xcoms=xcoms,
        rendered=attempt.rendered,
        asset_events=attempt.asset_events,
        deferrals=tuple(attempt.deferrals),
        skipped=attempt.skipped,
        error=attempt.error,
        retry_delay=attempt.retry_delay,
        log="\n".join(_line(entry) for entry in log),
    )


def _line(entry: Mapping[str, Any]) -> str:
    """Return an event of the log as text, with what was logged beside its message."""
    rest = {key: value for key, value in entry.items() if key not in ("event", "log_level", "logger_name")}
    beside = " ".join(f"{key}={value}" for key, value in rest.items())
    return f"{entry['log_level']}: {entry['event']} {beside}".rstrip()
