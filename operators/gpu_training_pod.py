from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import ApiClient

from include.errors import SetupError
from include.training.manifests import CONTAINER, pod, torchrun_command
from operators.hooks.kubernetes_calls import object_path
from operators.hooks.kubernetes_objects import DEFAULT_CONN
from operators.remote_training import RemoteTrainingOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from include.training.watch import Watch
    from operators.remote_objects import OnCluster
    from operators.remote_work import Work


class GpuTrainingPodOperator(RemoteTrainingOperator, KubernetesPodOperator):
    """Trains in a pod: the same command on the same job file as `TrainModelOperator`, with what a profile names.

    What happened is decided by the result and the pod's end together: a pod that is gone without a result was no
    success, and a whole result counts whatever became of its pod. Failures of machines (preempted, evicted, node lost,
    API silent) are tried again after a pause, by the profile's own limit, from the newest checkpoint; they use up none
    of the task's retries. Errors of the job, its data, image or profile are not tried again. While the pod waits to
    run, the task's log says why in the scheduler's words; after the profile's `pending_s` it is given up.

    The pod has one name over all tries, so there are never two. It waits in the triggerer, which passes on the pod's
    log; a worker or triggerer that dies leaves the pod alone. A pod that ended is kept, and found by the next try.

    Args:
        launcher: python starts one process; torchrun one for each GPU of the pod.
        **kwargs: As for `RemoteTrainingOperator`, and of KubernetesPodOperator; those win over what the profile says.
    """

    template_fields: ClassVar[Sequence[str]] = (
        *KubernetesPodOperator.template_fields,
        *RemoteTrainingOperator.template_fields,
    )

    def __init__(self, *, launcher: Literal["python", "torchrun"] = "python", **kwargs: Any) -> None:
        super().__init__(**{**_SETTINGS, **kwargs})
        self.launcher = launcher

    def create(self, objects: OnCluster, context: Context) -> None:
        """Create the pod, as KubernetesPodOperator and the site's own hook make it from the profile's."""
        training = objects.work.training
        if training.profile.num_pods > 1:
            raise SetupError(
                f"a training in one pod must have a profile with num_pods: 1; got {training.profile.num_pods}. "
                "Nothing was started. Set training.runner to torchrun or trainjob, or name another profile."
            )
        command = torchrun_command(training) if self.launcher == "torchrun" else None
        self.pod_template_dict = pod(training, command=command)
        self.do_xcom_push = False  # KubernetesPodOperator would add a sidecar for it
        built = self.build_pod_request_obj(context)
        self.do_xcom_push = True
        built.metadata.name = training.name
        path = objects.watch.owner
        # Not applied: an author may repeat a variable of the profile's, which only a POST allows.
        is_new = objects.api.create(path.rpartition("/")[0], ApiClient().sanitize_for_serialization(built))
        self.log.info("%s %s", "created" if is_new else "found", path)

    def watch(self, work: Work) -> Watch:
        """Return what is waited for: the one pod."""
        namespace = self.namespace or work.training.profile.namespace
        owner = object_path(api_version="v1", plural="pods", namespace=namespace, name=work.training.name)
        return work.watch(owner, container=CONTAINER, poll_s=self.poll_interval)


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
