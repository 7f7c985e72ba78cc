"""Whose failure a try was: the retries that an author gave a task are for its own, those of machines come on top."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, BaseOperator, ExceptionRetryPolicy, RetryAction, RetryRule

from include.errors import BadInputError, InterruptionError, ServiceError, TrainingError
from include.testing.supervisor import FakeSupervisor
from include.testing.tasks import run_task
from operators.retries import NUM_MACHINE_TRIES, MachinesApart, MachinesApartMixin
from operators.train_model import TrainModelOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.testing.tasks import TaskResult

OWN, MACHINES, PERSON = TrainingError("mine"), ServiceError("away"), BadInputError("wrong")


class Do(MachinesApartMixin, BaseOperator):
    """Raises what it is given."""

    def __init__(self, *, error: Exception | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.error = error

    def execute(self, context: Context) -> None:  # noqa: ARG002 - Airflow passes it by name
        if self.error:
            raise self.error


class Task:
    """One task over its tries, as Airflow counts them."""

    def __init__(self, retries: int) -> None:
        self.retries, self.num_tries, self.supervisor = retries, 0, FakeSupervisor()

    def fails(self, error: Exception | None) -> TaskResult:
        """Run another try; one whose worker is killed only counts."""
        self.num_tries += 1
        task = Do(task_id="t", retries=self.retries, error=error)
        return run_task(task, supervisor=self.supervisor, try_number=self.num_tries)

    def is_killed(self, times: int) -> None:
        self.num_tries += times


@pytest.mark.parametrize("retries", [0, 2])
def test_a_task_has_its_authors_retries_whatever_machines_did(retries: int) -> None:
    task = Task(retries)
    for _ in range(retries):
        task.is_killed(1)
        assert task.fails(OWN).state == "up_for_retry"
    assert task.fails(InterruptionError("stopped")).state == "up_for_retry"
    found = task.fails(OWN)
    assert found.state == "failed"
    assert f"failure {retries + 1} of {retries + 1}; Airflow counts tries that machines ended too" in found.log


def test_machines_have_a_limit_too() -> None:
    task = Task(1)
    states = [task.fails(MACHINES).state for _ in range(2 + NUM_MACHINE_TRIES)]
    assert states == ["up_for_retry"] * (1 + NUM_MACHINE_TRIES) + ["failed"]


def test_what_a_person_must_mend_is_not_tried_again() -> None:
    assert Task(3).fails(PERSON).state == "failed"


def test_a_clear_begins_to_count_anew() -> None:
    task = Task(1)
    assert [task.fails(OWN).state for _ in range(2)] == ["up_for_retry", "failed"]
    policy = Do(task_id="t", retries=1, error=OWN).retry_policy
    assert isinstance(policy, MachinesApart)
    (held,) = task.supervisor.task_state.values()
    context: Any = {"task_state_store": _Store(held)}
    cleared = 2 + 1 + NUM_MACHINE_TRIES  # as Airflow does: the tries so far, and all retries again
    assert policy.evaluate(OWN, 3, cleared, context).action is RetryAction.RETRY
    assert policy.evaluate(OWN, 3, cleared, context).action is RetryAction.RETRY, "one try was counted twice"
    assert policy.evaluate(OWN, 4, cleared, context).action is RetryAction.FAIL


class _Store(dict[str, Any]):
    """The task state store, without the messages to it."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


def test_without_a_store_each_try_counts() -> None:
    policy = Do(task_id="t", retries=1, error=OWN).retry_policy
    assert isinstance(policy, MachinesApart)
    assert policy.evaluate(OWN, 1, 6).action is RetryAction.RETRY
    assert policy.evaluate(OWN, 2, 6).action is RetryAction.FAIL


def test_default_args_and_an_authors_own_policy_count() -> None:
    later = RetryRule(exception=TrainingError, action=RetryAction.RETRY, retry_delay=timedelta(seconds=7))
    own = {"retries": 3, "retry_policy": ExceptionRetryPolicy(rules=[later])}
    with DAG("d", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC), default_args=own):
        task = TrainModelOperator(task_id="train", model="flight_delays", snapshot={})
    assert task.retries == 3 + NUM_MACHINE_TRIES
    assert isinstance(task.retry_policy, MachinesApart)
    assert task.retry_policy.num_retries == 3
    assert task.retry_policy.evaluate(OWN, 1, 8).retry_delay == timedelta(seconds=7)


def test_the_scheduler_sees_all_tries() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("d", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC), default_args={"retries": 3}) as dag:
        TrainModelOperator(task_id="train", model="flight_delays", snapshot={})
    seen = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("train")
    assert (seen.retries, seen.has_retry_policy) == (3 + NUM_MACHINE_TRIES, True)


def test_a_mapped_task_has_its_authors_retries_alone() -> None:
    with DAG("d", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC)):
        mapped = TrainModelOperator.partial(task_id="t", model="m", retries=2).expand(snapshot=[{}])
    assert mapped.retries == 2
