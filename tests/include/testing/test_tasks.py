from __future__ import annotations

import gc
import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    DAG,
    Asset,
    BaseHook,
    BaseOperator,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    Variable,
)
from airflow.sdk.bases.skipmixin import SkipMixin
from airflow.sdk.exceptions import AirflowSkipException, AirflowTaskTimeout, TaskDeferralTimeout
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.supervisor import set_supervisor_comms
from airflow.triggers.base import BaseTrigger, StartTriggerArgs, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from include.errors import GateError, ServiceError
from include.testing.attempt import Attempt
from include.testing.process import borrowed_process
from include.testing.supervisor import FakeSupervisor
from include.testing.tasks import TaskNotSuccessfulError, run_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from airflow.sdk import Context

OUT = Asset("out", uri="x-test://out")


class Do(BaseOperator):
    """Calls a function with the context."""

    template_fields = ("text",)

    def __init__(self, *, do: Callable[[Any], Any], text: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.do = do
        self.text = text

    def execute(self, context: Context) -> Any:
        return self.do({**context, "self": self})


def do(function: Callable[[Any], Any], **kwargs: Any) -> Do:
    return Do(task_id="task", do=function, **kwargs)


def fail(error: Exception) -> Callable[[Any], None]:
    def raise_it(context: Any) -> None:
        raise error

    return raise_it


class EchoTrigger(BaseTrigger):
    def __init__(self, *, word: str, partition: str = "") -> None:
        super().__init__()
        self.word = word
        self.partition = partition

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (f"{__name__}.EchoTrigger", {"word": self.word, "partition": self.partition})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        import asyncio

        if self.word == "raise":
            raise ValueError("no such word")
        if self.word == "wait":
            await asyncio.sleep(60)
        ends = {"end": TaskSuccessEvent(xcoms={"k": 1}), "fail": TaskFailedEvent()}
        connection = await BaseHook.aget_connection("where") if self.word == "connect" else None
        yield ends.get(self.word) or TriggerEvent([self.word, self.partition, connection and connection.host])


class Wait(BaseOperator):
    template_fields = ("partition",)

    def __init__(self, *, word: str, starts: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.word = word
        self.partition = "{{ dag_run.partition_key }}"
        self.start_from_trigger = starts
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=f"{__name__}.EchoTrigger",
            trigger_kwargs={"word": word, "partition": self.partition},
            next_method="resume",
        )

    def execute(self, context: Context) -> None:  # noqa: ARG002 - Airflow's signature
        self.defer(
            trigger=EchoTrigger(word=self.word), method_name="resume", kwargs={"n": 2}, timeout=timedelta(minutes=1)
        )

    def resume(self, context: Context, event: Any = None, n: int = 0) -> Any:  # noqa: ARG002 - same
        return [*event, n]


def test_templates_see_the_dag_run_and_its_params() -> None:
    with DAG("some", schedule=None, params={"size": Param(3, type="integer")}):
        task = do(lambda c: c["self"].text, text="{{ dag_run.partition_key }} {{ params.size }} {{ run_id }}")
    result = run_task(task, partition="2013-01", run_id="r", conf={"size": 5})
    assert (result.state, result.xcom, result.rendered) == ("success", "2013-01 5 r", {"text": "2013-01 5 r"})
    assert task.text.startswith("{{")  # the operator of the test stays as it is


def test_xcoms_go_from_task_to_task_as_json() -> None:
    supervisor = FakeSupervisor()
    with DAG("some", schedule=None):
        first = Do(task_id="first", do=lambda _: {"rows": [1, 2]})
        second = do(lambda c: c["self"].text, text="{{ ti.xcom_pull(task_ids='first')['rows'] | sum }}")
        absent = Do(task_id="absent", do=lambda c: c["ti"].xcom_pull(task_ids="never") is None)
    run_task(first, supervisor=supervisor)
    assert run_task(second, supervisor=supervisor).xcom == "3"
    assert run_task(absent, supervisor=supervisor).xcom is True
    assert run_task(second).error is not None  # another supervisor knows nothing of it


def test_what_the_socket_cannot_carry_fails() -> None:
    result = run_task(do(lambda _: object()))
    assert result.state == "failed"
    assert "serializ" in str(result.error)


def test_connections_and_variables_come_from_the_supervisor_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    supervisor = FakeSupervisor(
        connections={"where": {"conn_type": "http", "host": "here", "extra": json.dumps({"a": 1})}},
        variables={"v": "1"},
    )

    def read(context: Any) -> list[Any]:
        connection = BaseHook.get_connection("where")
        Variable.set("w", "2")
        return [connection.host, connection.extra_dejson, Variable.get("v"), Variable.get("w"), Variable.keys()]

    assert run_task(do(read), supervisor=supervisor).xcom == ["here", {"a": 1}, "1", "2", ["v", "w"]]
    monkeypatch.setenv("AIRFLOW_CONN_WHERE", "http://there")
    assert run_task(do(read), supervisor=supervisor).xcom[0] == "there"
    assert "isn't defined" in str(run_task(do(lambda _: BaseHook.get_connection("nowhere"))).error)
    assert run_task(do(lambda _: Variable.get("nope", default="d"))).xcom == "d"


def test_a_deferred_task_goes_on_with_its_triggers_event() -> None:
    supervisor = FakeSupervisor(connections={"where": {"conn_type": "http", "host": "here"}})
    result = run_task(Wait(task_id="t", word="connect"), supervisor=supervisor)
    assert (result.state, result.xcom) == ("success", ["connect", "", "here", 2])
    (deferral,) = result.deferrals
    assert (deferral.trigger, deferral.method) == (f"{__name__}.EchoTrigger", "resume")
    assert deferral.timeout == timedelta(minutes=1)
    assert deferral.kwargs == {"word": "connect", "partition": ""}


def test_a_task_may_start_in_the_triggerer() -> None:
    result = run_task(Wait(task_id="t", word="x", starts=True), partition="2013-02")
    assert result.xcom == ["x", "2013-02", None, 0]


def test_a_trigger_may_end_the_task_without_a_worker() -> None:
    result = run_task(Wait(task_id="t", word="end"))
    assert (result.state, result.xcom, result.xcoms) == ("success", None, {"k": 1})
    assert run_task(Wait(task_id="t", word="fail")).state == "failed"
    assert run_task(Wait(task_id="t", word="fail", retries=1)).state == "up_for_retry"


def test_a_wait_may_stop_time_out_fail_or_take_too_long() -> None:
    assert run_task(Wait(task_id="t", word="wait"), when_deferred="stop").state == "deferred"
    assert isinstance(run_task(Wait(task_id="t", word="wait"), when_deferred="time_out").error, TaskDeferralTimeout)
    broken = run_task(Wait(task_id="t", word="raise"))
    assert broken.state == "failed"
    assert "no such word" in broken.log
    with pytest.raises(TimeoutError, match=r"EchoTrigger must fire within 0\.05 s"):
        run_task(Wait(task_id="t", word="wait"), trigger_timeout_s=0.05)


def test_retries_follow_the_policy() -> None:
    rule = RetryRule(exception="include.errors.GateError", action=RetryAction.FAIL)
    later = RetryRule(
        exception="include.errors.ServiceError", action=RetryAction.RETRY, retry_delay=timedelta(seconds=9)
    )
    policy = {"retries": 2, "retry_policy": ExceptionRetryPolicy(rules=[rule, later])}
    assert run_task(do(fail(GateError("no")), **policy)).state == "failed"
    away = run_task(do(fail(ServiceError("away")), **policy))
    assert (away.state, away.retry_delay) == ("up_for_retry", timedelta(seconds=9))
    assert run_task(do(fail(ServiceError("away")), **policy), try_number=3).state == "failed"
    with pytest.raises(ServiceError, match="away"):
        away.returned()


def test_state_survives_a_retry_and_xcoms_do_not() -> None:
    supervisor = FakeSupervisor()

    def submit(context: Any) -> Any:
        seen = context["ti"].xcom_pull(task_ids="task", key="k"), context["task_state_store"].get("job")
        context["ti"].xcom_push(key="k", value="pushed")
        context["task_state_store"].set("job", "42")
        if context["ti"].try_number == 1:
            raise OSError("first try")
        return seen

    task = do(submit, retries=1)
    assert run_task(task, supervisor=supervisor).state == "up_for_retry"
    assert run_task(task, supervisor=supervisor, try_number=2).xcom == (None, "42")


def test_only_a_success_emits_its_outlets() -> None:
    supervisor = FakeSupervisor()

    def emit(context: Any) -> None:
        context["outlet_events"][OUT].extra = {"n": 1}

    said = run_task(do(emit, outlets=[OUT]), partition="2013-01", supervisor=supervisor)
    (event,) = said.asset_events
    assert (event.name, event.extra, event.partition_key) == ("out", {"n": 1}, "2013-01")
    assert run_task(do(lambda _: None, outlets=[OUT])).asset_events[0].extra == {}
    assert run_task(do(fail(ValueError()), outlets=[OUT])).asset_events == ()
    assert run_task(do(fail(AirflowSkipException()), outlets=[OUT])).asset_events == ()
    supervisor.emit("out", n=2)
    read = do(lambda c: [e.extra["n"] for e in c["inlet_events"][OUT]], inlets=[OUT])
    assert run_task(read, supervisor=supervisor, run_id="r2").xcom == [1, 2]


def test_assets_keep_state() -> None:
    def count(context: Any) -> int:
        store = context["asset_state_store"][OUT]
        store.set("n", (store.get("n") or 0) + 1)
        return store.get("n")

    supervisor = FakeSupervisor()
    runs = [run_task(do(count, outlets=[OUT]), supervisor=supervisor, run_id=run) for run in "ab"]
    assert [found.xcom for found in runs] == [1, 2]


def test_callbacks_are_called_with_the_exception() -> None:
    seen: list[Any] = []
    callbacks = {
        f"on_{kind}_callback": lambda context, kind=kind: seen.append((kind, repr(context.get("exception"))))
        for kind in ("success", "failure", "retry", "skipped", "execute")
    }
    run_task(do(lambda _: None, **callbacks))
    run_task(do(fail(ValueError("v")), **callbacks))
    run_task(do(fail(ValueError("v")), retries=1, **callbacks))
    run_task(do(fail(AirflowSkipException("s")), **callbacks))
    kinds = [kind for kind, _ in seen]
    assert kinds == ["execute", "success", "execute", "failure", "execute", "retry", "execute", "skipped"]
    assert seen[3] == ("failure", "ValueError('v')")


class Branch(BaseOperator, SkipMixin):
    def execute(self, context: Context) -> None:
        self.skip(ti=context["ti"], tasks=[self.dag.get_task("left")])


def test_a_task_may_skip_others() -> None:
    with DAG("some", schedule=None):
        branch = Branch(task_id="branch")
        branch >> [EmptyOperator(task_id="left"), EmptyOperator(task_id="right")]
    result = run_task(branch)
    assert (result.state, result.skipped) == ("success", ("left",))


def test_returned_says_why_there_is_nothing() -> None:
    with pytest.raises(AirflowSkipException, match="not today"):
        run_task(do(fail(AirflowSkipException("not today")))).returned()
    with pytest.raises(TaskNotSuccessfulError, match="got deferred"):
        run_task(Wait(task_id="t", word="wait"), when_deferred="stop").returned()
    assert run_task(do(lambda _: 3)).returned() == 3


def test_a_task_may_live_at_another_time() -> None:
    then = datetime(2013, 2, 1, tzinfo=UTC)
    result = run_task(do(lambda _: datetime.now(UTC).isoformat()), now=then)
    assert result.xcom.startswith("2013-02-01T00:00:0")
    assert datetime.now(UTC).year > 2013


def test_the_log_is_kept() -> None:
    result = run_task(do(lambda c: c["self"].log.info("took %d rows of %s", 3, "flights")))
    assert "info: took 3 rows of flights" in result.log


def test_the_process_of_the_test_stays_as_it_was() -> None:
    def pause(_: Any) -> None:
        assert os.environ["AIRFLOW_CTX_TASK_ID"] == "task"
        time.sleep(5)

    killed: list[bool] = []
    task = do(pause, execution_timeout=timedelta(seconds=0.05))
    task.on_kill = lambda: killed.append(True)  # type: ignore[method-assign]
    handlers = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM))
    left_s, _ = signal.getitimer(signal.ITIMER_REAL)
    result = run_task(task)
    assert isinstance(result.error, AirflowTaskTimeout)
    assert killed == [True]
    assert "AIRFLOW_CTX_TASK_ID" not in os.environ
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == handlers
    still_left_s, _ = signal.getitimer(signal.ITIMER_REAL)
    assert left_s - 5 < still_left_s <= left_s  # pytest-timeout's alarm goes on
    assert not hasattr(task_runner, "SUPERVISOR_COMMS")


def test_the_time_limit_of_a_test_that_is_over_is_raised_after_the_task() -> None:
    def late(*_: Any) -> None:
        raise TimeoutError("the test took too long")

    gc.disable()  # what is raised while it works is lost: Hypothesis has it call Python
    before, (left_s, _) = signal.signal(signal.SIGALRM, late), signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(TimeoutError, match="the test took too long"):
            run_task(do(lambda _: time.sleep(5), execution_timeout=timedelta(seconds=0.05)))
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left_s)
        gc.enable()


def test_what_only_a_real_airflow_knows_is_said() -> None:
    result = run_task(do(lambda c: c["ti"].get_dr_count(dag_id="some")))
    assert isinstance(result.error, NotImplementedError)
    assert "GetDRCount must be a message that the fake supervisor can answer" in str(result.error)


def test_an_attempt_is_moved_by_hand_from_process_to_process() -> None:
    dag = DAG("by_hand", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC))
    Wait(task_id="t", word="go", dag=dag)
    attempt = Attempt(
        task=dag.get_task("t"),
        supervisor=FakeSupervisor(),
        try_number=1,
        dag_run={"run_id": "run-1", "partition_key": None},
    )
    with borrowed_process(), set_supervisor_comms(attempt.supervisor):
        attempt.execute()
        assert attempt.state == "deferred"
        assert attempt.make_trigger() is not attempt.make_trigger(), "each triggerer makes its own"
        attempt.fire(TriggerEvent(["went"]))
        assert attempt.state == "queued"
        attempt.execute()
        assert (attempt.state, attempt.xcoms["return_value"]) == ("success", ["went", 2])
