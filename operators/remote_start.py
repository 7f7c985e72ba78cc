"""How a training on Kubernetes begins: what is there of it goes on, what is in its way ends first, else it is made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from include.errors import ServiceError
from include.training.failures import Failure, FailureKind
from operators.hooks.kubernetes_calls import RefusedError
from operators.remote_failures import wait_for_cluster
from operators.remote_search import Search

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from include.training.watch import Watch
    from operators.remote_objects import OnCluster
    from operators.remote_training import RemoteTrainingOperator


def see_to_it(task: RemoteTrainingOperator, objects: OnCluster, context: Context) -> Watch:
    """See to it that the work is there, or that what is in its way goes; return what to wait for.

    Raises:
        TaskDeferred: There is no room, or no answer; it begins anew after a pause.
        RefusedError: The cluster refuses it.
        TradewindError: It has waited for room or an answer for as long as its profile lets it.
    """
    try:
        found = Search(api=objects.api, work=objects.work, watch=objects.watch, log=objects.log).find()
        if found is not None:
            watch = replace(objects.watch, owner=found.path)
            if not found.goes_on:
                watch = replace(watch, until_gone=True, selector=objects.work.selector)
            objects = task.hold(replace(objects, watch=watch))
        if not objects.watch.until_gone:
            _make_whole(task, objects, found.item if found else None, context)
    except RefusedError as error:
        if not error.is_quota:
            raise
        objects.log.info("it waits to run: %s", error.reason)
        failure = Failure(kind=FailureKind.QUOTA, evidence=(error.reason,))
        raise wait_for_cluster(objects, context, failure) from error
    except ServiceError as error:
        failure = Failure(kind=FailureKind.API_UNREACHABLE, evidence=(str(error),))
        raise wait_for_cluster(objects, context, failure) from error
    return objects.watch


def _make_whole(
    task: RemoteTrainingOperator, objects: OnCluster, found: Mapping[str, Any] | None, context: Context
) -> None:
    """Create the work, or complete what is there of it; what can never be whole holds no nodes."""
    try:
        if found is None:
            task.create(objects, context)
        else:
            task.complete(objects, found)
    except RefusedError as error:
        if found is None or error.is_quota:  # which refuses only what is new, so it is not there
            objects.end()
            raise
        objects.log.warning("%s The work goes on as it is.", error)
