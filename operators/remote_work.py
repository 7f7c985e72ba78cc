"""One training on Kubernetes: its job, its name and labels, and whether what is there by its name is it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from include.spec import load_spec
from include.training.manifests import RemoteTraining
from include.training.profiles import resolve_profile
from include.training.remote_names import (
    TaskKey,
    label_value,
    remote_annotations,
    remote_labels,
    remote_name,
    selector,
    task_labels,
)
from include.training.watch import Watch
from operators.hooks.lake import LakeHook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from include.errors import TradewindError
    from include.lake.storage import Storage
    from include.training.failure_kinds import Failure, Standing
    from include.training.job import Job
    from operators.remote_training import RemoteTrainingOperator

SETTLED = "tradewind/settled"
"""Annotation of work whose end has been decided on; the next try does not take it for its own."""
_JOB_LABEL = "tradewind/job"


@dataclass(frozen=True, kw_only=True)
class Work:
    """One training on Kubernetes, before anything is asked of it.

    Attributes:
        job: What is trained.
        storage: Where the job and its result are.
        key: The task instance.
        profile: Name of its profile; empty: the model's.
    """

    job: Job
    storage: Storage
    key: TaskKey
    profile: str

    @classmethod
    def of(cls, task: RemoteTrainingOperator, context: Context, *, job_uri: str) -> Work:
        """Return a task's work: of a job that was written before, or of the one that the present code writes.

        Args:
            task: The task.
            context: Its context.
            job_uri: The job, whatever the model's folder and its profile are by now; empty: it is written.
        """
        from include.training.job import load_job
        from include.training.submit import submit_job

        storage = LakeHook(task.lake_conn_id).get_conn()
        if job_uri:
            job = load_job(job_uri, storage=storage)
        else:
            spec = load_spec(task.model)
            resolve_profile(spec.training, name=task.profile)  # before a job is written: it may be no profile
            job = submit_job(spec=spec, snapshot=task.snapshot, overrides=task.overrides, storage=storage)
        return cls(job=job, storage=storage, key=_task_key(context), profile=task.profile)

    @cached_property
    def training(self) -> RemoteTraining:
        """What manifests are made from, by the profile as it is now.

        Raises:
            SetupError: There is no such profile any more.
        """
        lake, spec = self.storage.root, self.job.spec
        profile = resolve_profile(spec.training, name=self.profile)
        return RemoteTraining(
            name=remote_name(spec.name, self.key, lake=lake),
            labels=remote_labels(spec.name, self.key, job_key=self.job.key, lake=lake),
            profile=profile.for_commit(self.job.commit),
            job_uri=self.job.uri,
            deadline_s=profile.deadline_s or spec.training.timeout_s,
            annotations=remote_annotations(self.key),
        )

    @property
    def selector(self) -> str:
        """Labels of all objects and pods of the task instance, whatever they are called and train."""
        return selector(task_labels(self.key, lake=self.storage.root))

    def is_own(self, found: Mapping[str, Any]) -> bool:
        """Return whether an object trains this job, and nobody has told it to end or decided on its end."""
        metadata = found["metadata"]
        if metadata.get("deletionTimestamp") or SETTLED in (metadata.get("annotations") or {}):
            return False
        return (metadata.get("labels") or {}).get(_JOB_LABEL) == label_value(self.job.key)

    def result(self) -> object | None:
        """Return the job's whole result; None: there is none."""
        from include.training.result import read_result

        return read_result(self.job, storage=self.storage)

    def error(self, failure: Failure, *, next_try: str | None = None) -> TradewindError:
        """Return what a failure of it means, with how far it has come."""
        return failure.error(f"training job {self.job.key}", self.standing(), next_try=next_try)

    def standing(self) -> Standing:
        """Return how far it has come."""
        from include.training.submit import standing_of

        return standing_of(self.job, storage=self.storage)

    def watch(self, owner: str, *, container: str, poll_s: float, has_pods: bool = False) -> Watch:
        """Return what is waited for, and for how long.

        Args:
            owner: Path of the pod, its Job or its TrainJob.
            container: Whose log is followed.
            poll_s: Seconds between two looks.
            has_pods: Whether the owner has pods; else it is the pod.
        """
        profile = self.training.profile
        return Watch(
            owner=owner,
            namespace=owner.split("/namespaces/")[1].partition("/")[0],
            selector=self.selector if has_pods else "",
            num_pods=profile.num_pods,
            container=container,
            pending_s=profile.pending_s,
            running_s=self.training.deadline_s,
            grace_s=profile.grace_s,
            poll_s=poll_s,
        )


def _task_key(context: Context) -> TaskKey:
    """Return which task instance runs."""
    instance = context["ti"]
    index = -1 if instance.map_index is None else instance.map_index
    return TaskKey(dag_id=instance.dag_id, run_id=str(context["run_id"]), task_id=instance.task_id, map_index=index)
