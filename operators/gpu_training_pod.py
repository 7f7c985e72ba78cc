from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import ApiClient

from include.errors import SetupError
from include.training.manifests import CONTAINER, pod, torchrun_command
from include.training.watch import Watch
from operators.hooks.kubernetes_calls import object_path
from operators.hooks.kubernetes_objects import DEFAULT_CONN
from operators.hooks.lake import LakeHook
from operators.remote_training import RemoteTrainingMixin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from operators.remote_work import Work


class GpuTrainingPodOperator(RemoteTrainingMixin, KubernetesPodOperator):
    """Trains in a pod: the same command on the same job file as `TrainModelOperator`, with what a profile names.

    What happened is decided by the result and the pod's end together: a pod that is gone without a result was no
    success, and a whole result counts whatever became of its pod. Failures of machines (preempted, evicted, node lost,
    API silent) are tried again after a pause, by the profile's own limit, from the newest checkpoint; they use up none
    of the task's retries. Errors of the job, its data, image or profile are not tried again. While the pod waits to
    run, the task's log says why in the scheduler's words; after the profile's `pending_s` it is given up.

    The pod has one name over all tries, so there are never two. It waits in the triggerer, which passes on the pod's
    log; a worker or triggerer that dies leaves the pod alone. A pod that ended is kept, and found by the next try.

    Args:
        model: Name of the model's folder.
        snapshot: What `BuildSnapshotOperator` returned.
        profile: Name of a GPU profile; empty: the model's `training.profile`.
        overrides: JSON object of `seed` and fields of the spec's `training`; null leaves the spec's value.
        launcher: python starts one process; torchrun one for each GPU of the pod.
        lake_conn_id: Connection of the lake.
        **kwargs: Of KubernetesPodOperator; they win over what the profile says.

    Returns:
        As `TrainModelOperator`.

    Raises:
        BadInputError: The job or its data cannot be used.
        SetupError: No node, quota, image or memory for it; the message has the cluster's words.
        TrainingError: It failed otherwise, or was interrupted more often than the profile allows.
    """

    template_fields: ClassVar[Sequence[str]] = (
        *KubernetesPodOperator.template_fields,
        "model",
        "snapshot",
        "profile",
        "overrides",
        "lake_conn_id",
    )

    def __init__(
        self,
        *,
        model: str,
        snapshot: Mapping[str, Any],
        profile: str = "",
        overrides: str = "{}",
        launcher: Literal["python", "torchrun"] = "python",
        lake_conn_id: str = LakeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**_SETTINGS, **kwargs})
        self.model = model
        self.snapshot = snapshot
        self.profile = profile
        self.overrides = overrides
        self.launcher = launcher
        self.lake_conn_id = lake_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Write the job, see to its pod, hand over to the triggerer; what comes back is small and JSON."""
        return self.begin(context)

    def manifests(self, work: Work, context: Context) -> list[dict[str, Any]]:
        """Return the pod, as KubernetesPodOperator and the site's own hook make it from the profile's."""
        if work.training.profile.num_pods > 1:
            raise SetupError(
                f"a training in one pod must have a profile with num_pods: 1; got {work.training.profile.num_pods}. "
                "Nothing was started. Set training.runner to torchrun or trainjob, or name another profile."
            )
        command = torchrun_command(work.training) if self.launcher == "torchrun" else None
        self.pod_template_dict = pod(work.training, command=command)
        self.do_xcom_push = False  # KubernetesPodOperator would add a sidecar for it
        built = self.build_pod_request_obj(context)
        self.do_xcom_push = True
        built.metadata.name = work.training.name
        manifest: dict[str, Any] = ApiClient().sanitize_for_serialization(built)
        return [manifest]

    def watch(self, work: Work) -> Watch:
        """Return what is waited for: the one pod."""
        profile = work.training.profile
        namespace = self.namespace or profile.namespace
        return Watch(
            owner=object_path(api_version="v1", plural="pods", namespace=namespace, name=work.training.name),
            namespace=namespace,
            container=CONTAINER,
            pending_s=profile.pending_s,
            running_s=work.training.deadline_s,
            grace_s=profile.grace_s,
            poll_s=self.poll_interval,
        )


_SETTINGS: dict[str, Any] = {
    "kubernetes_conn_id": DEFAULT_CONN,
    "random_name_suffix": False,
    "deferrable": True,
    "on_finish_action": "keep_pod",
    "log_pod_spec_on_failure": False,
    "poll_interval": 5,
    "do_xcom_push": True,
    "termination_message_policy": "FallbackToLogsOnError",
}
"""What KubernetesPodOperator has otherwise by default."""
