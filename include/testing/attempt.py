"""One try of a task: what the scheduler, the worker, the triggerer and the API server do with it, in that order."""

from __future__ import annotations

import asyncio
import traceback
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import structlog
from airflow.sdk import BaseXCom
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.api.datamodels._generated import BundleInfo, DagRun, TaskInstance, TIRunContext
from airflow.sdk.execution_time import comms, task_runner
from airflow.sdk.serde import deserialize, serialize
from airflow.triggers.base import BaseTaskEndEvent

from include.testing.supervisor import AssetEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import BaseOperator
    from airflow.triggers.base import BaseTrigger, TriggerEvent

    from include.testing.supervisor import FakeSupervisor

WhenDeferred = Literal["run", "stop", "time_out"]

_NAMESPACE = uuid.UUID(int=0)
_FAIL = "__fail__"


@dataclass(frozen=True, kw_only=True)
class Deferral:
    """A hand-over to the triggerer.

    Attributes:
        trigger: Class of the trigger, dotted.
        kwargs: What makes it again; nothing secret may be in there.
        method: Method of the operator that goes on.
        next_kwargs: Arguments of that method beside the trigger's event.
        timeout: For how long the trigger may run.
    """

    trigger: str
    kwargs: Mapping[str, Any]
    method: str
    next_kwargs: Mapping[str, Any] = field(default_factory=dict)
    timeout: timedelta | None = None


@dataclass(kw_only=True)
class Attempt:
    """A task on its way from queued to the end of its try; `run` moves it there.

    A test that lets workers or triggerers die moves it by hand instead: `execute` is a worker's part, `make_trigger`
    and `fire` are a triggerer's. As each of them is a process of its own in Airflow, such a test sets `task` to a new
    operator before each `execute`. A `BaseException` that no code of Airflow's takes, raised again at each call and
    message, is then the death of the process.
    """

    task: BaseOperator
    supervisor: FakeSupervisor
    try_number: int
    dag_run: dict[str, Any]
    state: str = "queued"
    error: BaseException | None = None
    deferrals: list[Deferral] = field(default_factory=list)
    next_method: str | None = None
    next_kwargs: dict[str, Any] | None = None
    first_message: int = 0
    max_tries: int | None = None
    """As the server says it: a clear gives a task that had its tries new ones. None: its retries."""

    def run(self, *, when_deferred: WhenDeferred, trigger_timeout_s: float) -> None:
        """Run the task until its try has ended, or until it is deferred if that is where to stop."""
        self.first_message = len(self.supervisor.sent)
        if self.task.start_from_trigger and self.task.start_trigger_args:
            self._start_from_trigger()
        else:
            self.execute()
        while self.state == "deferred" and when_deferred != "stop":
            if when_deferred == "time_out":
                self._queue(_FAIL, {"error": "Trigger timeout"})
            else:
                self._trigger(timeout_s=trigger_timeout_s)
            if self.state == "queued":
                self.execute()

    @property
    def xcoms(self) -> dict[str, Any]:
        """Return what the task has pushed, by key."""
        where = (self.task.dag_id, self.dag_run["run_id"], self.task.task_id)
        return {
            key[3]: BaseXCom.deserialize_value(comms.XComResult(key=key[3], value=value))
            for key, value in self.supervisor.xcoms.items()
            if key[:3] == where
        }

    @property
    def rendered(self) -> dict[str, Any]:
        """Return the template fields as they were last reported."""
        return next((dict(found.rendered_fields) for found in self._said(comms.SetRenderedFields)), {})

    @property
    def asset_events(self) -> tuple[AssetEvent, ...]:
        """Return the events that the task's success has emitted."""
        source = (self.task.dag_id, self.task.task_id, self.dag_run["run_id"])
        return tuple(event for event in self.supervisor.asset_events if event.source == source)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Return the ids of the tasks that this one had skipped."""
        named = [task for message in self._said(comms.SkipDownstreamTasks) for task in message.tasks]
        return tuple(task if isinstance(task, str) else task[0] for task in named)

    @property
    def retry_delay(self) -> timedelta | None:
        """Return the wait before the next try that a retry policy has asked for."""
        delays = [message.retry_delay_seconds for message in self._said(comms.RetryTask)]
        return timedelta(seconds=delays[0]) if delays and delays[0] is not None else None

    def _said(self, kind: type[Any]) -> list[Any]:
        """Return this try's messages of one kind, the last one first."""
        return [message for message in self.supervisor.sent[self.first_message :] if isinstance(message, kind)][::-1]

    def execute(self) -> None:
        """Do what a worker does: begin the task, or go on where its trigger's event leads."""
        instance = self._task_instance()
        context = instance.get_template_context()
        log = structlog.get_logger(logger_name="task")
        state, message, error = task_runner.run(instance, context, log)
        context["exception"] = error
        task_runner.finalize(instance, state, context, log, error)
        self.state, self.error = str(state.value), error
        if isinstance(message, comms.DeferTask):
            self.deferrals.append(
                Deferral(
                    trigger=message.classpath,
                    kwargs=deserialize(message.trigger_kwargs),
                    method=message.next_method,
                    next_kwargs=deserialize(message.next_kwargs),
                    timeout=message.trigger_timeout,
                )
            )
        elif isinstance(message, comms.SucceedTask):
            self._emit(message)

    def _start_from_trigger(self) -> None:
        """Do what the scheduler does with a task that needs no worker before its trigger fires."""
        start = self.task.start_trigger_args
        self.deferrals.append(
            Deferral(
                trigger=start.trigger_cls,
                kwargs=start.trigger_kwargs or {},
                method=start.next_method,
                next_kwargs=start.next_kwargs or {},
                timeout=start.timeout,
            )
        )
        self.state = "deferred"

    def make_trigger(self) -> BaseTrigger:
        """Return the trigger that the task waits for, made again from what was kept of it, as each triggerer does."""
        deferral = self.deferrals[-1]
        trigger: BaseTrigger = import_string(deferral.trigger)(**deserialize(serialize(dict(deferral.kwargs))))
        instance = self._task_instance()
        trigger.task_instance = instance
        if self.task.start_from_trigger:
            trigger.render_template_fields(instance.get_template_context())
        return trigger

    def fire(self, event: TriggerEvent) -> None:
        """Take a trigger's event: it ends the task, or queues it for `execute` to go on."""
        deferral = self.deferrals[-1]
        if isinstance(event, BaseTaskEndEvent):
            self._end_without_a_worker(event)
        else:
            self._queue(deferral.method, {**deferral.next_kwargs, "event": event.payload})

    def _trigger(self, *, timeout_s: float) -> None:
        """Do what the triggerer does: wait for one event of the trigger."""
        trigger = self.make_trigger()
        try:
            event = asyncio.run(_first_event(trigger, timeout_s=timeout_s))
        except TimeoutError as error:
            raise TimeoutError(
                f"{self.deferrals[-1].trigger} must fire within {timeout_s:g} s; got nothing. The task is deferred. "
                "Make true what it waits for, or pass when_deferred='stop' or 'time_out'."
            ) from error
        except Exception as error:  # noqa: BLE001 - the triggerer takes whatever a trigger raises
            self._queue(_FAIL, {"error": "Trigger failure", "traceback": traceback.format_exception(error)})
            return
        self.fire(event)

    def _queue(self, method: str, kwargs: dict[str, Any]) -> None:
        self.state, self.next_method, self.next_kwargs = "queued", method, serialize(kwargs)

    def _end_without_a_worker(self, event: BaseTaskEndEvent) -> None:
        """Do what the API server does with a trigger's event that ends the task."""
        self.state = str(event.task_instance_state.value)
        if self.state == "failed" and self.try_number <= self.task.retries:
            self.state = "up_for_retry"
        for key, value in (event.xcoms or {}).items():
            self.supervisor.xcoms[self.task.dag_id, self.dag_run["run_id"], self.task.task_id, key, -1] = value

    def _emit(self, message: comms.SucceedTask) -> None:
        """Do what the API server does: each outlet is an event, with what the task has said about it."""
        said = [(event["dest_asset_key"], event) for event in message.outlet_events or () if "dest_asset_key" in event]
        silent: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"name": outlet.name, "uri": outlet.uri}, {})
            for outlet in message.task_outlets or ()
            if outlet.type == "Asset" and not any(key["name"] == outlet.name for key, _ in said)
        ]
        for key, event in (*said, *silent):
            self.supervisor.asset_events.append(
                AssetEvent(
                    name=key["name"],
                    uri=key["uri"],
                    extra=event.get("extra") or {},
                    partition_key=event.get("partition_key") or self.dag_run.get("partition_key"),
                    source=(self.task.dag_id, self.task.task_id, self.dag_run["run_id"]),
                    at=datetime.now(UTC),
                )
            )

    def _task_instance(self) -> task_runner.RuntimeTaskInstance:
        """Return what a worker makes of the server's answer to *I start this task*."""
        task, run = self.task, self.dag_run
        max_tries = task.retries if self.max_tries is None else self.max_tries
        where = (task.dag_id, run["run_id"], task.task_id)
        pushed = [key[3] for key in self.supervisor.xcoms if key[:3] == where]
        from_server = TIRunContext(
            dag_run=_dag_run(task.dag_id, run),
            max_tries=max_tries,
            should_retry=self.try_number <= max_tries,
            next_method=self.next_method,
            next_kwargs=self.next_kwargs,
            xcom_keys_to_clear=[] if self.next_method else pushed,
        )
        instance = TaskInstance(
            id=uuid.uuid5(_NAMESPACE, "/".join(where)),
            task_id=task.task_id,
            dag_id=task.dag_id,
            run_id=run["run_id"],
            try_number=self.try_number,
            dag_version_id=_NAMESPACE,
        )
        return task_runner.RuntimeTaskInstance.model_construct(
            **instance.model_dump(exclude_unset=True),
            map_index=-1,
            task=task,
            bundle_instance=BundleInfo(name="test"),
            _ti_context_from_server=from_server,
            max_tries=max_tries,
            start_date=datetime.now(UTC),
            state="running",
        )


def _dag_run(dag_id: str, given: Mapping[str, Any]) -> DagRun:
    """Return a Dag run as the server describes it; what a test does not name is empty."""
    now = datetime.now(UTC)
    unknown = dict.fromkeys(("logical_date", "data_interval_start", "data_interval_end", "end_date"))
    described = {"dag_id": dag_id, "run_type": "manual", "state": "running", "run_after": now, "start_date": now}
    return DagRun(**{**unknown, **described, "consumed_asset_events": [], **given})


async def _first_event(trigger: BaseTrigger, *, timeout_s: float) -> TriggerEvent:
    return await asyncio.wait_for(anext(aiter(trigger.run())), timeout=timeout_s)
