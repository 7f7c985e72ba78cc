"""Which failures are worth another try: those of machines, never those that a person must mend."""

from __future__ import annotations

from datetime import timedelta
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


def retry_args(*, execution_timeout: timedelta) -> dict[str, Any]:
    """Return default arguments of a Dag's tasks: three quick retries, none for errors that would only repeat."""
    rule = RetryRule(
        exception=[f"include.errors.{name}" for name in _NEEDS_A_PERSON],
        action=RetryAction.FAIL,
        reason="the same input fails again; the message names what a person has to do",
    )
    return {
        "retries": 3,
        "retry_delay": timedelta(seconds=2),
        "retry_policy": ExceptionRetryPolicy(rules=[rule]),
        "execution_timeout": execution_timeout,
    }
