from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import ApiClient

from include.errors import SetupError
from include.training.manifests import CONTAINER, pod, torchrun_command
from operators.hooks.kubernetes_calls import object_path
from operators.hooks.kubernetes_objects import DEFAULT_CONN
from operators.pod_arguments import SETTINGS, refuse_others
from operators.remote_training import RemoteTrainingOperator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from include.training.manifests import RemoteTraining
    from include.training.profiles import Profile
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

    Where it lands, what it takes and how long it may is said by the profile and the model's `training.pod` alone.

    Args:
        launcher: python starts one process, for one GPU at most; torchrun one for each GPU of the pod.
        kubernetes_conn_id: Connection of Kubernetes.
        poll_interval: Seconds between two looks.
        **kwargs: As for `RemoteTrainingOperator`; and of KubernetesPodOperator: `annotations`, `env_vars`,
            `image_pull_policy`, `init_containers`, `labels`, `runtime_class_name`, `volume_mounts`, `volumes`.
    """

    template_fields: ClassVar[Sequence[str]] = (
        *KubernetesPodOperator.template_fields,
        *RemoteTrainingOperator.template_fields,
    )

    def __init__(
        self,
        *,
        launcher: Literal["python", "torchrun"] = "python",
        kubernetes_conn_id: str = DEFAULT_CONN,
        poll_interval: float = 5,
        **kwargs: Any,
    ) -> None:
        refuse_others(kwargs)
        super().__init__(kubernetes_conn_id=kubernetes_conn_id, poll_interval=poll_interval, **SETTINGS, **kwargs)
        self.launcher = launcher

    def create(self, objects: OnCluster, context: Context) -> None:
        """Create the pod, as KubernetesPodOperator and the site's own hook make it from the profile's."""
        training = objects.work.training
        _require_use(training.profile, launcher=self.launcher)
        path = objects.watch.owner
        # Not applied: an author may repeat a variable of the profile's, which only a POST allows.
        is_new = objects.api.create(path.rpartition("/")[0], self._built(training, context))
        self.log.info("%s %s", "created" if is_new else "found", path)

    def _built(self, training: RemoteTraining, context: Context) -> dict[str, Any]:
        wanted = pod(training, command=torchrun_command(training) if self.launcher == "torchrun" else None)
        self.pod_template_dict = wanted
        self.do_xcom_push = False  # KubernetesPodOperator would add a sidecar for it
        built: dict[str, Any] = ApiClient().sanitize_for_serialization(self.build_pod_request_obj(context))
        self.do_xcom_push = True
        for key in ("labels", "annotations"):  # by which the work is found again
            built["metadata"][key] |= wanted["metadata"][key]
        built["metadata"]["name"] = training.name
        _require_watched(built, wanted)
        return built

    def watch(self, work: Work) -> Watch:
        """Return what is waited for: the one pod."""
        training = work.training
        owner = object_path(api_version="v1", plural="pods", namespace=training.profile.namespace, name=training.name)
        return work.watch(owner, container=CONTAINER, poll_s=self.poll_interval)


def _require_use(profile: Profile, *, launcher: str) -> None:
    """Require that a pod can be all of a training, and uses all of its GPUs.

    Raises:
        SetupError: It does not.
    """
    if profile.num_pods > 1:
        raise SetupError(
            f"a training in one pod must have a profile with num_pods: 1; got {profile.num_pods}. Nothing was started. "
            "Set training.runner to torchrun or trainjob, or name another profile."
        )
    if launcher == "python" and profile.num_gpus > 1:
        raise SetupError(
            f"a training in one process must have a profile with num_gpus: 1 at most; got {profile.num_gpus}, of which "
            "all but the first would idle. Nothing was started. Set training.runner to torchrun (launcher of the "
            "operator), or name another profile."
        )


def _require_watched(built: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Require that the site's pod_mutation_hook has left what the waiting goes by.

    Raises:
        SetupError: It has not.
    """
    watched = (
        ("metadata", "namespace", "namespace"),
        ("spec", "terminationGracePeriodSeconds", "grace_s"),
        ("spec", "activeDeadlineSeconds", "deadline_s"),
    )
    for part, key, name in watched:
        if (got := built[part].get(key)) != (was := wanted[part][key]):
            raise SetupError(
                f"{key} of a training's pod must be the profile's {was!r}; got {got!r} of Airflow's pod_mutation_hook. "
                f"Nothing was started. Set {name} of the profile so, or leave such pods out of the hook."
            )
