"""One training on Kubernetes: whose it is, and whether what is there by its name is it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.training.remote_names import TaskKey, label_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from include.lake.storage import Storage
    from include.training.job import Job
    from include.training.manifests import RemoteTraining

SETTLED = "tradewind/settled"
"""Annotation of work whose end has been decided on; the next try does not take it for its own."""
_JOB_LABEL = "tradewind/job"


@dataclass(frozen=True, kw_only=True)
class Work:
    """One training on Kubernetes, before anything is asked of it.

    Attributes:
        job: What is trained.
        storage: Where the job and its result are.
        training: What manifests are made from.
    """

    job: Job
    storage: Storage
    training: RemoteTraining


def task_key(context: Context) -> TaskKey:
    """Return which task instance runs."""
    instance = context["ti"]
    index = -1 if instance.map_index is None else instance.map_index
    return TaskKey(dag_id=instance.dag_id, run_id=str(context["run_id"]), task_id=instance.task_id, map_index=index)


def is_own(found: Mapping[str, Any], work: Work) -> bool:
    """Return whether an object trains this job, and nobody has told it to end or decided on its end."""
    metadata = found["metadata"]
    if metadata.get("deletionTimestamp") or SETTLED in (metadata.get("annotations") or {}):
        return False
    return (metadata.get("labels") or {}).get(_JOB_LABEL) == label_value(work.job.key)


def folder(path: str) -> str:
    """Return where objects of a kind are made, by the path of one of them."""
    return path.rpartition("/")[0]
