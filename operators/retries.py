"""Which failures are worth another try: those of machines, never those that a person must mend."""

from __future__ import annotations

from datetime import timedelta
from math import ceil
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

_NEEDS_A_PERSON = (
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


def only_machines_retry() -> ExceptionRetryPolicy:
    """Return the policy of an operator whose Dag has none: no retry for what a person must mend."""
    return ExceptionRetryPolicy(rules=[_no_retry()])


def _no_retry() -> RetryRule:
    return RetryRule(
        exception=[f"include.errors.{name}" for name in _NEEDS_A_PERSON],
        action=RetryAction.FAIL,
        reason="the same input fails again; the message names what a person has to do",
    )
