from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from include.training.manifests import CONTAINER, KINDS, TRAINJOB_CONTAINER, indexed_job, service, train_job
from operators.custom_resource import apply_manifest
from operators.hooks.kubernetes_calls import object_path
from operators.hooks.kubernetes_objects import DEFAULT_CONN
from operators.remote_training import RemoteTrainingOperator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from include.training.watch import Watch
    from operators.remote_objects import OnCluster
    from operators.remote_work import Work


class DistributedTrainingOperator(RemoteTrainingOperator):
    """Trains in several pods at once: by an indexed Job with a headless Service, or by a TrainJob of Kubeflow Trainer.

    The command and the job file are those of `TrainModelOperator`; torchrun starts one process for each GPU of each
    pod. When one pod fails, all end, and what happened to the first of them is what happened. Outcome, retries, pending
    and names are as for `GpuTrainingPodOperator`: result and evidence decide together, failures of machines use up no
    retry, and the work has one name over all tries. It waits in the triggerer; on_kill, and a person who fails or
    clears the task, delete the work with all of its pods. Its objects are applied, and their conditions read, as
    `CustomResourceOperator` does it.

    Args:
        kind: job needs nothing but Kubernetes; trainjob needs Kubeflow Trainer 2.2 and the profile's `runtime`.
        kubernetes_conn_id: Connection of Kubernetes.
        poll_interval: Seconds between two looks.
        **kwargs: As for `RemoteTrainingOperator`.
    """

    def __init__(
        self,
        *,
        kind: Literal["job", "trainjob"] = "job",
        kubernetes_conn_id: str = DEFAULT_CONN,
        poll_interval: float = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.kubernetes_conn_id = kubernetes_conn_id
        self.poll_interval = poll_interval

    def create(self, objects: OnCluster, context: Context) -> None:  # noqa: ARG002 - names are in the work
        """Apply the Job and its Service, or the TrainJob."""
        training = objects.work.training
        manifest = train_job(training) if self.kind == "trainjob" else indexed_job(training)
        path, owner = apply_manifest(objects.api, manifest)
        self.log.info("applied %s", path)
        self.complete(objects, owner)

    def complete(self, objects: OnCluster, owner: Mapping[str, Any]) -> None:
        """Apply the Service by which a Job's pods find each other."""
        if self.kind == "job":
            training = replace(objects.work.training, name=owner["metadata"]["name"])
            job = indexed_job(training) | {"metadata": owner["metadata"]}  # what a list gives has no kind
            apply_manifest(objects.api, service(training), owner=job)

    def watch(self, work: Work) -> Watch:
        """Return what is waited for: the Job or TrainJob, with the pods that carry its labels."""
        api_version, plural = KINDS[self.kind]
        training = work.training
        where = {"namespace": training.profile.namespace, "name": training.name}
        return work.watch(
            object_path(api_version=api_version, plural=plural, **where),
            container=TRAINJOB_CONTAINER if self.kind == "trainjob" else CONTAINER,
            poll_s=self.poll_interval,
            has_pods=True,
        )
