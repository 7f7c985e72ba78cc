"""What operators that train on Kubernetes share: one flow from the job to its outcome, whatever object does the work.

    execute: job -> whole result? -> find or create the work -> the trigger watches it
    resume:  result and evidence together -> outcome: return, try again after a pause, or raise

The work's name is the task instance's own over all tries, so Kubernetes itself refuses a second one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import TaskDeferred

from include.training.failures import Failure, FailureKind, decide_outcome
from include.training.watch import End, Watch
from operators.hooks.kubernetes_objects import KubernetesObjects
from operators.hooks.lake import LakeHook
from operators.remote_failures import counted, start_again
from operators.remote_objects import OnCluster
from operators.remote_start import see_to_it
from operators.remote_work import Work
from operators.retries import MachinesApartMixin
from sensors.triggers.remote_training import RemoteTrainingTrigger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context


class RemoteTrainingOperator(MachinesApartMixin, BaseOperator):
    """Base of what trains on Kubernetes: a subclass says by `create` and `watch` which object does the work.

    Args:
        model: Name of the model's folder.
        snapshot: What `BuildSnapshotOperator` returned.
        profile: Name of a GPU profile; empty: the model's `training.profile`.
        overrides: JSON object of `seed` and fields of the spec's `training`; null leaves the spec's value.
        lake_conn_id: Connection of the lake.

    Returns:
        As `TrainModelOperator`.

    Raises:
        BadInputError: The job or its data cannot be used.
        SetupError: No node, quota, image or memory for it; the message has the cluster's words.
        TrainingError: It failed otherwise, or was interrupted more often than the profile allows.
    """

    template_fields: ClassVar[Sequence[str]] = ("model", "snapshot", "profile", "overrides", "lake_conn_id")
    kubernetes_conn_id: str
    _objects: OnCluster | None = None

    def __init__(
        self,
        *,
        model: str,
        snapshot: Mapping[str, Any],
        profile: str = "",
        overrides: str = "{}",
        lake_conn_id: str = LakeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.snapshot = snapshot
        self.profile = profile
        self.overrides = overrides
        self.lake_conn_id = lake_conn_id

    def create(self, objects: OnCluster, context: Context) -> None:
        """Make the objects that do the work."""
        raise NotImplementedError

    def complete(self, objects: OnCluster, owner: Mapping[str, Any]) -> None:
        """Make what a worker that was killed between two calls has left out; a single object lacks nothing."""

    def watch(self, work: Work) -> Watch:
        """Return what is waited for, and for how long."""
        raise NotImplementedError

    def execute(self, context: Context) -> dict[str, Any]:
        """Write the job, see to its pods, hand over to the triggerer; what comes back is small and JSON."""
        return self.go_on(context)

    def go_on(
        self,
        context: Context,
        event: dict[str, Any] | None = None,  # noqa: ARG002 - Airflow passes it by name
        job_uri: str = "",
        watch: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return a kept result, or see to it that the work runs; begin so again after a pause."""
        if watch is not None:
            before = self._on_cluster(Work.of(self, context, job_uri=job_uri), Watch(**watch))
            if before.work.result() is not None:
                return self._finish(before, context)
        work = Work.of(self, context, job_uri="")
        objects = self._on_cluster(work, self.watch(work))
        if work.result() is not None:
            return self._finish(objects, context)
        waiting = see_to_it(self, objects, context)
        if not waiting.until_gone:  # else it may be what is refused again, when it has gone
            counted(work, context).wait_over()
        raise TaskDeferred(
            trigger=RemoteTrainingTrigger(conn_id=self.kubernetes_conn_id, watch=waiting.to_json()),
            method_name="resume",
            kwargs={"job_uri": work.job.uri, "watch": waiting.to_json()},
        )

    def resume(self, context: Context, event: dict[str, Any], *, job_uri: str, watch: dict[str, Any]) -> dict[str, Any]:
        """Go on after the trigger: decide by the result and by what was seen; all else may have changed meanwhile."""
        work, end = Work.of(self, context, job_uri=job_uri), End.from_json(event)
        objects = self._on_cluster(work, Watch(**watch))
        outcome = decide_outcome(work.result(), end.evidence)
        if outcome is not None and outcome.succeeded:
            if outcome.failure:
                self.log.info("the result is whole; afterwards: %s", "; ".join(outcome.failure.evidence))
            return self._finish(objects, context)
        if end.reason == "stuck":
            objects.delete_by_force(end.pods)
        if objects.watch.until_gone and end.reason == "gone":
            return self.go_on(context)
        failure = outcome.failure if outcome else None
        raise start_again(objects, context, failure or Failure(kind=FailureKind.UNKNOWN))

    def on_kill(self) -> None:
        """Delete the work: its trainer gets SIGTERM and its grace."""
        if self._objects is not None:
            self._objects.delete(grace_s=self._objects.watch.grace_s)

    def hold(self, objects: OnCluster) -> OnCluster:
        """Note what `on_kill` deletes, and return it."""
        self._objects = objects
        return objects

    def _on_cluster(self, work: Work, watch: Watch) -> OnCluster:
        api, since_s = KubernetesObjects(self.kubernetes_conn_id), time.monotonic()
        return self.hold(OnCluster(api=api, work=work, watch=watch, log=self.log, since_s=since_s))

    def _finish(self, objects: OnCluster, context: Context) -> dict[str, Any]:
        """End what still runs, and return what the tasks after this one need."""
        from include.training.submit import finished_job

        counted(objects.work, context).reset()
        objects.end()
        return finished_job(objects.work.job, storage=objects.work.storage)
