"""What follows when a training on Kubernetes fails or cannot begin: a pause and another start, or an error."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import TaskDeferred

from include.errors import SetupError
from include.training.failures import Failure, FailureKind
from include.training.interruptions import Interruptions
from sensors.triggers.remote_training import PauseTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.training.profiles import Profile
    from operators.remote_objects import OnCluster
    from operators.remote_work import Work

_PAUSE_S = 30.0


def counted(work: Work, context: Context) -> Interruptions:
    """Return how often machines have interrupted a work."""
    return Interruptions.of(work.job.key, context.get("task_state_store"))


def wait_for_cluster(objects: OnCluster, context: Context, failure: Failure) -> TaskDeferred:
    """Return a pause for room or for an answer, as long as the profile lets the work wait; this is no interruption.

    Raises:
        TradewindError: It has waited for so long.
    """
    work, limit_s = objects.work, objects.watch.pending_s
    so_far = counted(work, context)
    if so_far.waited_s >= limit_s:
        so_far.reset()
        raise work.error(failure)
    so_far.wait(time.monotonic() - objects.since_s + _PAUSE_S)  # calls that hang take longer than the pause
    then = f"It is tried again in {_PAUSE_S:g} s, for {limit_s:g} s in all, and uses up no retry."
    objects.log.warning("%s", work.error(failure, next_try=then))
    return _pause(objects, _PAUSE_S)


def start_again(objects: OnCluster, context: Context, failure: Failure) -> TaskDeferred:
    """Return the pause before another start after a failure of machines, which has a count of its own.

    Raises:
        TradewindError: It is no failure of machines, or one more than the profile allows.
    """
    work = objects.work
    if failure.kind is FailureKind.API_UNREACHABLE:
        return wait_for_cluster(objects, context, failure)
    objects.settle()
    if failure.kind is FailureKind.UNSCHEDULABLE:
        failure = replace(failure, evidence=(*failure.evidence, *objects.why_no_node()))
    if not failure.is_infrastructure:
        raise work.error(failure)
    limit, so_far = _profile(objects, failure).max_interruptions, counted(work, context)
    if why := so_far.count(failure.kind, limit=limit, checkpoint=work.standing().checkpoint):
        raise work.error(failure, next_try=why)
    number, wait_s = so_far.num, so_far.back_off_s
    then = f"Another start follows in {wait_s:.0f} s and uses up no retry ({number} of {limit} interruptions)."
    objects.log.warning("%s", work.error(failure, next_try=then))
    return _pause(objects, wait_s)


def _profile(objects: OnCluster, failure: Failure) -> Profile:
    """Return the profile for another start.

    Raises:
        SetupError: There is none any more; the task's log says what made it necessary.
    """
    try:
        return objects.work.training.profile
    except SetupError:
        then = "No other start follows: its profile cannot be used any more."
        objects.log.warning("%s", objects.work.error(failure, next_try=then))
        raise


def _pause(objects: OnCluster, wait_s: float) -> TaskDeferred:
    """Return a pause, after which the job's result is looked for before all else."""
    kwargs = {"job_uri": objects.work.job.uri, "watch": objects.watch.to_json()}
    return TaskDeferred(trigger=PauseTrigger(wait_s=wait_s), method_name="go_on", kwargs=kwargs)
