from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import BaseOperator

from include.training.manifests import CONTAINER, TRAINJOB_CONTAINER, indexed_job, service, train_job
from include.training.watch import Watch
from operators.hooks.kubernetes_calls import object_path
from operators.hooks.kubernetes_objects import DEFAULT_CONN
from operators.hooks.lake import LakeHook
from operators.remote_training import RemoteTrainingMixin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from operators.remote_work import Work

_PLACES = {
    "job": ("batch/v1", "jobs", CONTAINER),
    "trainjob": ("trainer.kubeflow.org/v1alpha1", "trainjobs", TRAINJOB_CONTAINER),
}
"""Kind -> API version, plural, and the container whose log is followed."""


class DistributedTrainingOperator(RemoteTrainingMixin, BaseOperator):
    """Trains in several pods at once: by an indexed Job with a headless Service, or by a TrainJob of Kubeflow Trainer.

    The command and the job file are those of `TrainModelOperator`; torchrun starts one process for each GPU of each
    pod. When one pod fails, all end, and what happened to the first of them is what happened. Outcome, retries, pending
    and names are as for `GpuTrainingPodOperator`: result and evidence decide together, failures of machines use up no
    retry, and the work has one name over all tries. It waits in the triggerer; on_kill, and a person who fails or
    clears the task, delete the work with all of its pods.

    Args:
        model: Name of the model's folder.
        snapshot: What `BuildSnapshotOperator` returned.
        kind: job needs nothing but Kubernetes; trainjob needs Kubeflow Trainer 2.2 and its runtime torch-distributed.
        profile: Name of a GPU profile; empty: the model's `training.profile`.
        overrides: JSON object of `seed` and fields of the spec's `training`; null leaves the spec's value.
        lake_conn_id: Connection of the lake.
        kubernetes_conn_id: Connection of Kubernetes.
        poll_interval: Seconds between two looks.

    Returns:
        As `TrainModelOperator`.

    Raises:
        BadInputError: The job or its data cannot be used.
        SetupError: No nodes, quota, image or memory for it; the message has the cluster's words.
        TrainingError: It failed otherwise, or was interrupted more often than the profile allows.
    """

    template_fields: ClassVar[Sequence[str]] = ("model", "snapshot", "profile", "overrides", "lake_conn_id")

    def __init__(
        self,
        *,
        model: str,
        snapshot: Mapping[str, Any],
        kind: Literal["job", "trainjob"] = "job",
        profile: str = "",
        overrides: str = "{}",
        lake_conn_id: str = LakeHook.default_conn_name,
        kubernetes_conn_id: str = DEFAULT_CONN,
        poll_interval: float = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.snapshot = snapshot
        self.kind = kind
        self.profile = profile
        self.overrides = overrides
        self.lake_conn_id = lake_conn_id
        self.kubernetes_conn_id = kubernetes_conn_id
        self.poll_interval = poll_interval

    def execute(self, context: Context) -> dict[str, Any]:
        """Write the job, see to its pods, hand over to the triggerer; what comes back is small and JSON."""
        return self.begin(context)

    def manifests(self, work: Work, context: Context) -> list[dict[str, Any]]:  # noqa: ARG002 - names are in `work`
        """Return the Job and its Service, or the TrainJob."""
        if self.kind == "trainjob":
            return [train_job(work.training)]
        return [indexed_job(work.training), service(work.training)]

    def watch(self, work: Work) -> Watch:
        """Return what is waited for: the Job or TrainJob, with the pods that carry its labels."""
        profile = work.training.profile
        api_version, plural, container = _PLACES[self.kind]
        name, namespace = work.training.name, profile.namespace
        return Watch(
            owner=object_path(api_version=api_version, plural=plural, namespace=namespace, name=name),
            namespace=namespace,
            selector=",".join(f"{key}={value}" for key, value in sorted(work.training.labels.items())),
            container=container,
            pending_s=profile.pending_s,
            running_s=work.training.deadline_s,
            grace_s=profile.grace_s,
            poll_s=self.poll_interval,
        )
