"""The tasks of a rollout that exist only if the model's spec asks for them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from operators.shift_traffic import ShiftTrafficOperator
from sensors.canary_settled import CanarySettledSensor

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from include.spec import ModelSpec

APPROVED_BY = "{{ ((ti.xcom_pull(task_ids='approve') or {}).get('responded_by_user') or {}).get('name') or '' }}"
"""Who approved the rollout, when the spec asks for approval; else empty."""

_WAIT_FOR_PEOPLE = timedelta(days=7)
_MARGIN = timedelta(minutes=5)


def approval_tasks(spec: ModelSpec) -> list[BaseOperator]:
    """Return the task that waits for a person, if the spec asks for one; a rejection fails it, so it is rolled back."""
    if not spec.rollout.approval:
        return []
    approve = ApprovalOperator(
        task_id="approve",
        subject=f"Deploy a new version of {spec.name}?",
        body="Its model card is in MLflow, at the version with the alias challenger. Rejecting it rolls it back.",
        response_timeout=_WAIT_FOR_PEOPLE,
        execution_timeout=None,  # it would end the wait
        fail_on_reject=True,
        retries=0,  # a retry would ask again
    )
    return [approve]


def comparison_tasks(spec: ModelSpec) -> list[BaseOperator]:
    """Return the tasks that compare a challenger with the champion, in order: shadow, then each step of the canary."""
    rollout = spec.rollout
    timeout = timedelta(seconds=rollout.step_timeout_s) + _MARGIN
    if rollout.on_inconclusive == "hold":
        timeout = _WAIT_FOR_PEOPLE
    waiting: dict[str, Any] = {"model": spec.name, "timeout": timeout, "execution_timeout": timeout}
    tasks: list[BaseOperator] = []
    if rollout.has_shadow:
        tasks.append(CanarySettledSensor(task_id="shadow_settled", stage="shadow", **waiting))
    for share_pct in rollout.shares_pct:
        step = f"{share_pct:g}".replace(".", "_")
        tasks.append(ShiftTrafficOperator(task_id=f"shift_{step}", model=spec.name, share_pct=share_pct))
        tasks.append(CanarySettledSensor(task_id=f"settled_{step}", share_pct=share_pct, **waiting))
    return tasks
