from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import models as k8s

from include.spec import load_spec
from include.training.profiles import profile_with
from operators.hooks.lake import LakeHook

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from include.spec import GpuPodSpec
    from include.training.job import Job

_GPU = "nvidia.com/gpu"
_SHARED_MEMORY = "dshm"
_START_S = 900
_GRACE_S = 60


class GpuTrainingPodOperator(KubernetesPodOperator):
    """Trains in a pod with GPUs: the same command on the same job file as `TrainModelOperator`.

    It waits in the triggerer, so a restarted worker does not end the pod. A pod that ended is kept: its logs can be
    read, and a retry finds its result instead of training again. So does a clear of a task that succeeded, since the
    same snapshot, overrides, spec and code are the same job: its pod only returns the kept result. `on_kill` deletes
    the pod, whose trainer gets SIGTERM and 60 s to save a checkpoint. Secrets reach it by the Secret that the spec
    names, never by the job file.

    Args:
        model: Name of the model's folder.
        snapshot: What `BuildSnapshotOperator` returned.
        pod: Image, resources, namespace, Secret and time limits: the spec's `training.pod`.
        overrides: JSON object of `seed` and fields of the spec's `training`; null leaves the spec's value.
        lake_conn_id: Connection of the lake.
        **kwargs: Of KubernetesPodOperator; they win over what `pod` says.

    Returns:
        As `TrainModelOperator`.

    Raises:
        AirflowException: The pod failed.
        TrainingError: It succeeded without a whole result.
    """

    template_fields: ClassVar[Sequence[str]] = (
        *KubernetesPodOperator.template_fields,
        "model",
        "snapshot",
        "overrides",
        "lake_conn_id",
    )

    def __init__(
        self,
        *,
        model: str,
        snapshot: Mapping[str, Any],
        pod: GpuPodSpec,
        overrides: str = "{}",
        lake_conn_id: str = LakeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**_pod_arguments(pod, model=model), **kwargs})
        self.model = model
        self.snapshot = snapshot
        self.overrides = overrides
        self.lake_conn_id = lake_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Write the job, run its pod; what comes back is small and JSON."""
        job = self._submit()
        super().execute(context)
        return self._finished(job)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Continue after the pod ended in the triggerer's sight."""
        job = self._submit()
        super().trigger_reentry(context, event)
        return self._finished(job)

    def _submit(self) -> Job:
        from include.training.submit import submit_job

        storage = LakeHook(self.lake_conn_id).get_conn()
        spec = load_spec(self.model)
        job = submit_job(spec=spec, snapshot=self.snapshot, overrides=self.overrides, storage=storage)
        self.arguments = ["--job", job.uri]
        return job

    def _finished(self, job: Job) -> dict[str, Any]:
        from include.training.submit import finished_job

        return finished_job(job, storage=LakeHook(self.lake_conn_id).get_conn())


def _pod_arguments(pod: GpuPodSpec, *, model: str) -> dict[str, Any]:
    """Return KubernetesPodOperator's arguments for a training pod."""
    profile = profile_with("", own=pod)
    amounts = {"cpu": profile.cpu, "memory": profile.memory} | (
        {_GPU: str(profile.num_gpus)} if profile.num_gpus else {}
    )
    secret = (
        k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=profile.env_secret)) if profile.env_secret else None
    )
    memory = k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit=profile.shared_memory)
    return {
        "name": f"train-{model.replace('_', '-')}",
        "namespace": profile.namespace,
        "image": profile.image,
        "cmds": ["python", "-m", "include.training"],
        "labels": {"app.kubernetes.io/name": "tradewind-trainer", "tradewind/model": model},
        "env_from": [secret] if secret else [],
        "container_resources": k8s.V1ResourceRequirements(requests=amounts, limits=amounts),
        "tolerations": [k8s.V1Toleration(key=_GPU, operator="Exists", effect="NoSchedule")],
        "volumes": [k8s.V1Volume(name=_SHARED_MEMORY, empty_dir=memory)],
        "volume_mounts": [k8s.V1VolumeMount(name=_SHARED_MEMORY, mount_path="/dev/shm")],  # noqa: S108 - in the pod
        "service_account_name": profile.service_account,
        "automount_service_account_token": profile.service_account is not None,
        "container_security_context": k8s.V1SecurityContext(
            allow_privilege_escalation=False, capabilities=k8s.V1Capabilities(drop=["ALL"])
        ),
        "schedule_timeout_seconds": profile.pending_s,
        "startup_timeout_seconds": _START_S,
        "termination_grace_period": _GRACE_S,
        "deferrable": True,
        "on_finish_action": "keep_pod",
        "log_pod_spec_on_failure": False,
    }
