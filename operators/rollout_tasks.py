"""The tasks of a rollout that depend on the model's spec."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator

from operators.assets import closed_asset
from operators.choose_version import ChooseVersionOperator
from operators.rollouts import ASKED_VERSION, CHOSEN_VERSION, SKIPS_SUPERSEDED
from operators.shift_traffic import ShiftTrafficOperator
from sensors.canary_settled import CanarySettledSensor

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from include.spec import ModelSpec

_APPROVED_BY = "{{ ((ti.xcom_pull(task_ids='approve') or {}).get('responded_by_user') or {}).get('name') or '' }}"
_BODY = """{% set chosen = ti.xcom_pull(task_ids='choose') -%}
Version {{ chosen['version'] }}, trained on {{ chosen['window'] or 'an unknown window' }}, would take over from
{{ 'champion ' ~ chosen['champion'] if chosen['champion'] else 'nobody' }}. Its gates:

{% for gate in chosen['gates'] %}- {{ gate }}
{% endfor %}
Its model card is in MLflow, at that version. Rejecting takes that version out, and no other."""

_WAIT_FOR_PEOPLE = timedelta(days=7)
_MARGIN = timedelta(minutes=5)


def approver(spec: ModelSpec) -> str:
    """Return the template of who approved the rollout; empty if the spec asks nobody."""
    return _APPROVED_BY if spec.rollout.approval else ""


def choice_tasks(spec: ModelSpec) -> list[BaseOperator]:
    """Return the tasks that say which version is deployed: the choice, and a person's approval if the spec asks for it.

    A rejection fails the run, so that the version that was asked about is taken out, and no other.
    """
    choose = ChooseVersionOperator(
        task_id="choose", model=spec.name, version=ASKED_VERSION, skip_if_superseded=SKIPS_SUPERSEDED
    )
    if not spec.rollout.approval:
        return [choose]
    approve = ApprovalOperator(
        task_id="approve",
        subject=f"Deploy {spec.name} v{CHOSEN_VERSION}?",
        body=_BODY,
        response_timeout=_WAIT_FOR_PEOPLE,
        execution_timeout=None,  # it would end the wait
        fail_on_reject=True,
        retries=0,  # a retry would ask again
    )
    return [choose, approve]


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


def end_tasks(spec: ModelSpec) -> list[BaseOperator]:
    """Return what follows the promotion: a leaf that fails with it, and what closes the partition if all was skipped.

    With `roll_back` as the only leaf, a run that rolled back would succeed.
    """
    closed = EmptyOperator(task_id="closed", outlets=[closed_asset(spec.name)], trigger_rule="all_skipped")
    return [EmptyOperator(task_id="ended"), closed]
