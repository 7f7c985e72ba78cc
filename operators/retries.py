"""Which failures are worth another try: those of machines, never those that a person must mend."""

from __future__ import annotations

from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING, Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryDecision, RetryPolicy, RetryRule
from airflow.sdk.exceptions import TaskDeferralError

from include.errors import InterruptionError, ServiceError

if TYPE_CHECKING:
    from airflow.sdk import Context

_NEEDS_A_PERSON = (
    "CorruptArtifactError",
    "BadInputError",
    "SpecError",
    "DataQualityError",
    "GateError",
    "InconclusiveError",
    "NotFoundError",
    "SetupError",
)
_NUM_RETRIES = 5
"""A task that lost its scheduler is run again whatever its number of tries, but each such try is counted too."""
_SERVICE_RETRY_DELAY = timedelta(seconds=15)
NUM_MACHINE_TRIES = 5
"""Tries beyond those that its author gave a task, for workers that are killed."""
_OF_MACHINES = (InterruptionError, ServiceError, TaskDeferralError)
"""The last one is a trigger that broke: what it waited for goes on, and the next try waits for it again."""
_STATE_KEY = "tradewind_failures"


def retry_args(*, execution_timeout: timedelta, outage: timedelta = timedelta(0)) -> dict[str, Any]:
    """Return default arguments of a Dag's tasks: five quick retries, none for errors that would only repeat.

    Args:
        execution_timeout: Of each try.
        outage: For how long a task waits at least for a server that does not answer.
    """
    rules = [_no_retry()]
    if outage:
        rules.append(
            RetryRule(
                exception="include.errors.ServiceError",
                action=RetryAction.RETRY,
                retry_delay=_SERVICE_RETRY_DELAY,
                reason="a server does not answer yet",
            )
        )
    return {
        "retries": max(_NUM_RETRIES, ceil(outage / _SERVICE_RETRY_DELAY)),
        "retry_delay": timedelta(seconds=2),
        "retry_policy": ExceptionRetryPolicy(rules=rules),
        "execution_timeout": execution_timeout,
    }


def _no_retry() -> RetryRule:
    return RetryRule(
        exception=[f"include.errors.{name}" for name in _NEEDS_A_PERSON],
        action=RetryAction.FAIL,
        reason="the same input fails again; the message names what a person has to do",
    )


class MachinesApart(RetryPolicy):
    """Lets a task fail when its own failures have used up its author's retries, whatever number of tries it has had.

    Airflow counts a try when it begins, so it counts those whose worker was killed as well, of which no code of the
    task ever hears. Here a failure counts when the task's code has raised it, and it is none of machines. Which tries
    did so is kept in the task state store, apart for each time that the task was cleared.

    Args:
        num_retries: The author's.
        then: Says which errors are worth another try, and when.
    """

    def __init__(self, *, num_retries: int, then: RetryPolicy) -> None:
        self.num_retries = num_retries
        self.then = then

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Return whether to try again, and the count in words for the task's log."""
        found = self.then.evaluate(exception, try_number, max_tries, context)
        if found.action is RetryAction.FAIL:
            return found
        limit = self.num_retries + 1
        if isinstance(exception, _OF_MACHINES):
            return RetryDecision.retry(found.retry_delay, f"machines failed: none of the {limit} tries is used up")
        number = len(self._own_failures(try_number, max_tries, context))
        told = f"failure {number} of {limit}; Airflow counts tries that machines ended too: {try_number} so far"
        return RetryDecision.fail(told) if number >= limit else RetryDecision.retry(found.retry_delay, told)

    def _own_failures(self, try_number: int, max_tries: int, context: Context | None) -> list[int]:
        """Return the tries that failed by themselves since the task was cleared, this one included, and keep them."""
        store = context.get("task_state_store") if context else None
        if store is None:
            return list(range(1, try_number + 1))
        kept = store.get(_STATE_KEY)
        tries = kept["tries"] if isinstance(kept, dict) and kept.get("max_tries") == max_tries else []
        tries = sorted({*tries, try_number})
        store.set(_STATE_KEY, {"max_tries": max_tries, "tries": tries})  # each clear has a larger max_tries
        return tries


class MachinesApartMixin:
    """An operator whose author's retries are for its own failures; `NUM_MACHINE_TRIES` more are for those of machines.

    A task that is mapped has its author's alone: Airflow counts by what `partial` was given.
    """

    retries: int
    retry_policy: RetryPolicy | None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        then = self.retry_policy or ExceptionRetryPolicy(rules=[_no_retry()])
        self.retry_policy = MachinesApart(num_retries=self.retries, then=then)
        self.retries += NUM_MACHINE_TRIES
