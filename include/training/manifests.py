"""What Kubernetes is asked for: a training's pod, its indexed Job with a Service, or its TrainJob, as plain data.

One pod template serves all three. Fields are those of Kubernetes 1.30 and newer and of Kubeflow Trainer 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from include.errors import SetupError
from include.training.pod_parts import environment, node_affinity, node_selector, pod_security, storage_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.training.profiles import Profile

CONTAINER = "base"
"""What KubernetesPodOperator calls its container; a TrainJob's is `node`."""
TRAINJOB_CONTAINER = "node"
_TRAINER_GROUP = "trainer.kubeflow.org"
TRAINER = ("python", "-m", "include.training")
KINDS = {"pod": ("v1", "pods"), "job": ("batch/v1", "jobs"), "trainjob": (f"{_TRAINER_GROUP}/v1alpha1", "trainjobs")}
"""Of what can be a training by itself: the API's version and its name for them."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PORT = 29500
_MOUNTS = {"dshm": "/dev/shm", "tmp": "/tmp"}  # noqa: S108 - in the pod
_MEETING_MARGIN_S = 300
"""So that who waits in vain is given up by the task, which knows why, and not by the pods that are there."""
_NUM_POD_FAILURES = 0
"""Kubernetes starts nothing again by itself: what comes next is decided with the result at hand."""


@dataclass(frozen=True, kw_only=True)
class RemoteTraining:
    """What a manifest is made from.

    Attributes:
        name: Of all objects.
        labels: Of all objects.
        profile: What it may take.
        job_uri: The job.
        deadline_s: Seconds that it may run.
        annotations: Of the work itself: whose it is, in full.
    """

    name: str
    labels: Mapping[str, str]
    profile: Profile
    job_uri: str
    deadline_s: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, Any]:
        """Name, namespace, annotations and labels; the queue's too if there is one."""
        queue = {QUEUE_LABEL: self.profile.queue} if self.profile.queue else {}
        return {
            "name": self.name,
            "namespace": self.profile.namespace,
            "labels": dict(self.labels) | queue,
            "annotations": dict(self.annotations),
        }


def pod(training: RemoteTraining, *, command: list[str] | None = None) -> dict[str, Any]:
    """Return a training's one pod.

    Args:
        training: What it is made from.
        command: What it runs; by default the trainer as one process.
    """
    spec = pod_spec(training, command=command or [*TRAINER, "--job", training.job_uri])
    spec["activeDeadlineSeconds"] = training.deadline_s
    return {"apiVersion": "v1", "kind": "Pod", "metadata": training.metadata, "spec": spec}


def torchrun_command(training: RemoteTraining) -> list[str]:
    """Return the command that starts one process a GPU in each pod; ranks are fixed, so a resume sees the same ones."""
    profile = training.profile
    each = [*_torchrun(profile), f"--nproc-per-node={max(1, profile.num_gpus)}"]
    if profile.num_pods == 1:
        where = ["--standalone"]
    else:
        where = [
            f"--nnodes={profile.num_pods}",
            "--node-rank=$(JOB_COMPLETION_INDEX)",
            f"--master-addr={training.name}-0.{training.name}",
            f"--master-port={PORT}",
        ]
    return [*each, *where, *TRAINER[1:], "--job", training.job_uri]


def _torchrun(profile: Profile) -> list[str]:
    """Return torchrun, which would kill processes that save a checkpoint for longer than 30 s.

    It would wait 600 s for the other pods: how long these may wait for room is the profile's to say.
    """
    found = ["torchrun", f"--shutdown-timeout={profile.grace_s}"]
    return found if profile.num_pods == 1 else [*found, f"--rdzv-conf=timeout={profile.pending_s + _MEETING_MARGIN_S}"]


def service(training: RemoteTraining) -> dict[str, Any]:
    """Return the headless Service that gives the pods of an indexed Job their names."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": training.metadata,
        "spec": {
            "clusterIP": "None",
            "selector": {"batch.kubernetes.io/job-name": training.name},
            "publishNotReadyAddresses": True,
            "ports": [{"name": "torch", "port": PORT}],
        },
    }


def indexed_job(training: RemoteTraining) -> dict[str, Any]:
    """Return the Job whose pods train together; when one of them fails, all end."""
    spec = pod_spec(training, command=torchrun_command(training)) | {"subdomain": training.name}
    num_pods = training.profile.num_pods
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": training.metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": num_pods,
            "parallelism": num_pods,
            "backoffLimit": _NUM_POD_FAILURES,
            "activeDeadlineSeconds": training.deadline_s + training.profile.pending_s,
            "suspend": training.profile.queue is not None,
            "template": {"metadata": {"labels": dict(training.labels)}, "spec": spec},
        },
    }


def train_job(training: RemoteTraining) -> dict[str, Any]:
    """Return the TrainJob; its runtime sets what torchrun needs to know of the other pods.

    Fields are those of Kubeflow Trainer 2.2 and newer, whose `runtimePatches` took the place of `podTemplateOverrides`.

    Args:
        training: What it is made from.

    Raises:
        SetupError: The profile says what only the runtime can say of the pods.
    """
    profile = training.profile
    _require_carried(profile)
    template = pod_spec(training, command=[], container=TRAINJOB_CONTAINER)
    (container,) = template["containers"]
    return {
        "apiVersion": KINDS["trainjob"][0],
        "kind": "TrainJob",
        "metadata": training.metadata,
        "spec": {
            "runtimeRef": {"apiGroup": _TRAINER_GROUP, "kind": "ClusterTrainingRuntime", "name": profile.runtime},
            "suspend": profile.queue is not None,
            "activeDeadlineSeconds": training.deadline_s + profile.pending_s,
            "trainer": {
                "image": profile.image,
                # A runtime may have an entrypoint of its own, so tini is named: it hands signals on.
                "command": ["tini", "--", *_torchrun(profile), *TRAINER[1:], "--job", training.job_uri],
                "numNodes": profile.num_pods,
                "numProcPerNode": max(1, profile.num_gpus),
                "resourcesPerNode": container["resources"],
                "env": [*environment(profile), *storage_environment(profile)],
            },
            "runtimePatches": [_runtime_patch(template, labels=dict(training.labels))],
        },
    }


def _require_carried(profile: Profile) -> None:
    wrong = []
    if profile.priority_class:
        wrong.append(
            f"priority_class: {profile.priority_class} (leave it out, and set priorityClassName of the pods of the "
            f"runtime {profile.runtime!r})"
        )
    if profile.runtime == _KUBEFLOWS_RUNTIME and profile.grace_s > _KUBERNETES_GRACE_S:
        wrong.append(
            f"grace_s: {profile.grace_s} (set {_KUBERNETES_GRACE_S}, which pods of {_KUBEFLOWS_RUNTIME!r} have, or a "
            f"runtime of your own whose pods have terminationGracePeriodSeconds: {profile.grace_s})"
        )
    if wrong:
        raise SetupError(
            f"a TrainJob must have a profile that its API can pass on to its pods; got {'; '.join(wrong)}. Nothing was "
            "started. Mend the profile, or name another one."
        )


def _runtime_patch(template: dict[str, Any], *, labels: dict[str, str]) -> dict[str, Any]:
    """Return what a TrainJob says about the pods of its runtime beyond what has fields of its own."""
    (container,) = template["containers"]
    patched = {key: template[key] for key in _PATCHABLE if key in template}
    patched["containers"] = [{key: container[key] for key in ("name", "volumeMounts", "securityContext")}]
    if not template["automountServiceAccountToken"]:
        patched["volumes"] = [*patched["volumes"], {"name": _NO_TOKEN["name"], "emptyDir": {}}]
        patched["containers"][0]["volumeMounts"] = [*container["volumeMounts"], _NO_TOKEN]
    named = {"metadata": {"labels": labels}}
    job = {"name": TRAINJOB_CONTAINER, "template": {**named, "spec": {"template": {**named, "spec": patched}}}}
    return {"manager": "tradewind/training", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}


_PATCHABLE = (
    "tolerations",
    "nodeSelector",
    "affinity",
    "serviceAccountName",
    "imagePullSecrets",
    "securityContext",
    "volumes",
)
"""What a TrainJob may say about the pods of its runtime."""
_NO_TOKEN = {"name": "no-token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}
"""Where something is mounted already, Kubernetes' admission mounts no token; a TrainJob has no other word for it."""
_KUBEFLOWS_RUNTIME = "torch-distributed"
_KUBERNETES_GRACE_S = 30
"""Of pods that say nothing of it, as those of Kubeflow's runtime."""


def pod_spec(training: RemoteTraining, *, command: list[str], container: str = CONTAINER) -> dict[str, Any]:
    """Return the pod's spec that all runners share.

    Args:
        training: What it is made from.
        command: What the container runs.
        container: Its name.
    """
    profile = training.profile
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": profile.grace_s,
        "automountServiceAccountToken": profile.service_account is not None,
        "securityContext": pod_security(profile),
        "containers": [_container(profile, command=command, name=container)],
        "volumes": _volumes(profile),
        "affinity": {"nodeAffinity": node_affinity(profile)},
    }
    optional = {
        "serviceAccountName": profile.service_account,
        "priorityClassName": profile.priority_class,
        "nodeSelector": node_selector(profile),
        "tolerations": [found.model_dump(exclude_none=True) for found in profile.tolerations],
        "imagePullSecrets": [{"name": profile.image_pull_secret}] if profile.image_pull_secret else [],
    }
    return spec | {key: value for key, value in optional.items() if value}


def _container(profile: Profile, *, command: list[str], name: str) -> dict[str, Any]:
    amounts = {"cpu": profile.cpu, "memory": profile.memory}
    if profile.disk:
        amounts["ephemeral-storage"] = profile.disk
    if profile.num_gpus:
        amounts[profile.gpu_resource] = str(profile.num_gpus)
    found: dict[str, Any] = {
        "name": name,
        "image": profile.image,
        "env": environment(profile),
        "args": command,  # not `command`: the image's own entrypoint hands signals on to it
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": [{"name": one["name"], "mountPath": _MOUNTS[one["name"]]} for one in _volumes(profile)],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": profile.security.read_only_root,
        },
    }
    if profile.env_secret:
        found["envFrom"] = [{"secretRef": {"name": profile.env_secret}}]
    return found


def _volumes(profile: Profile) -> list[dict[str, Any]]:
    """Return shared memory, and a place for temporary files where the container's own cannot be written."""
    shared = {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": profile.shared_memory}}
    return [shared, {"name": "tmp", "emptyDir": {}}] if profile.security.read_only_root else [shared]
