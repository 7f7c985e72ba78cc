"""GPU profiles: what a training needs of a cluster, by name, from `profiles.yaml`.

TRADEWIND_PROFILES names a file of one's own in place of the shipped one.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from include.errors import SetupError
from include.spec.errors import nearest
from include.spec.fields import Frozen, Identifier
from include.training.profile_fields import (
    Cores,
    LabelKey,
    LabelValue,
    NamespaceName,
    NodeAffinity,
    ObjectName,
    Quantity,
    QueueName,
    Toleration,
)
from include.training.scheduling import REQUIRED, amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.spec import GpuPodSpec, TrainingSpec

FILE = Path(__file__).with_name("profiles.yaml")
VARIABLE = "TRADEWIND_PROFILES"
GPU = "nvidia.com/gpu"
"""Resource of a whole GPU, and key of the taint of nodes that have any."""
GPU_PRESENT = "nvidia.com/gpu.present"
GPU_PRODUCT = "nvidia.com/gpu.product"
"""Labels of a node, as NVIDIA's GPU feature discovery writes them."""


class Security(Frozen):
    """Who the trainer is in its container; it never gains rights, and it has none beyond a user's."""

    run_as_user: int = Field(default=10001, gt=0, description="User id; never root.")
    run_as_group: int = Field(default=10001, gt=0, description="Group id.")
    fs_group: int | None = Field(default=None, gt=0, description="Group that owns mounted volumes.")
    read_only_root: bool = Field(default=False, description="Whether the container's own files cannot be written.")


def _shared_memory(fields: Mapping[str, Any]) -> str:
    """Return the size of /dev/shm of a profile that names none."""
    return min("8Gi", str(fields["memory"]), key=amount)


class Profile(Frozen):
    """What one training takes, and on which nodes."""

    description: str = Field(description="For whom it is, in one sentence.")
    image: Annotated[str, Field(pattern=r"^\S+$")] = Field(
        description="Image with the trainer; {commit} in it is the commit of the job's code."
    )
    namespace: NamespaceName = Field(default="default", description="Namespace of the pods.")
    num_gpus: int = Field(default=0, ge=0, description="GPUs of each pod, or one share of one.")
    gpu_kind: LabelValue | None = Field(default=None, description="Value of the node's label nvidia.com/gpu.product.")
    gpu_share: Annotated[str, Field(pattern=r"^(whole|time_slice|mig-\dg\.\d+gb)$")] = Field(
        default="whole", description="whole, time_slice (of a shared GPU), or a MIG slice such as mig-1g.10gb."
    )
    num_pods: int = Field(default=1, ge=1, description="Pods of one training; more than 1: torchrun or trainjob only.")
    cpu: Cores = Field(default="4", description="CPU request and limit of each pod.")
    memory: Quantity = Field(default="16Gi", description="Memory request and limit of each pod.")
    disk: Quantity | None = Field(default=None, description="Local disk request and limit of each pod.")
    shared_memory: Quantity = Field(
        default_factory=_shared_memory, description="Size of /dev/shm; it counts as memory. None: 8Gi, memory at most."
    )
    tolerations: tuple[Toleration, ...] = Field(default=(), strict=False, description="Taints that it may ignore.")
    node_selector: dict[LabelKey, LabelValue] = Field(default={}, description="Labels that its node must have.")
    node_affinity: NodeAffinity = Field(default=NodeAffinity(), description="nodeAffinity, as Kubernetes writes it.")
    priority_class: ObjectName | None = Field(default=None, description="Priority class; none: the cluster's default.")
    is_spot: bool = Field(default=False, description="Whether its nodes may be taken away at any time.")
    service_account: ObjectName | None = Field(default=None, description="Service account; none: no token is mounted.")
    env_secret: ObjectName | None = Field(default=None, description="Secret whose keys become the environment.")
    image_pull_secret: ObjectName | None = Field(default=None, description="Secret that opens the image's registry.")
    security: Security = Field(default=Security(), description="User and rights in the container.")
    runtime: ObjectName = Field(default="tradewind-torch", description="ClusterTrainingRuntime of a TrainJob.")
    queue: QueueName | None = Field(default=None, description="Kueue's local queue; none: without Kueue.")
    deadline_s: int | None = Field(default=None, gt=0, description="Seconds it may run; none: training.timeout_s.")
    pending_s: int = Field(default=1800, gt=0, description="Seconds it may wait to run before it is given up.")
    grace_s: int = Field(default=60, ge=5, description="Seconds to save a checkpoint when it has to go.")
    max_interruptions: int = Field(
        default=5,
        ge=0,
        description="Failures of machines in a row without a new checkpoint that use up no retry, and ten times as "
        "many in all; one more is a failure of the task.",
    )
    price_per_hour: float = Field(default=0.0, ge=0, description="Of one pod, in the currency of your bill.")

    @model_validator(mode="after")
    def _lands_where_it_belongs(self) -> Profile:
        tolerates = any(found.key == GPU and found.effect == "NoSchedule" for found in self.tolerations)
        if self.num_gpus and not tolerates:
            raise ValueError(f"a profile with GPUs must tolerate {GPU} (NoSchedule); nodes with GPUs refuse all others")
        if not self.num_gpus and (tolerates or self.gpu_kind or self.gpu_share != "whole"):
            raise ValueError(f"a profile without GPUs must not tolerate {GPU} or name a GPU; set num_gpus")
        if self.is_spot and not (self.node_selector or REQUIRED in self.node_affinity):
            raise ValueError(
                "is_spot needs a node_selector, or a node_affinity that is required, that names the spot nodes"
            )
        return self

    @model_validator(mode="after")
    def _uses_what_it_takes(self) -> Profile:
        if self.num_gpus > 1 and self.gpu_share != "whole":
            raise ValueError(
                f"num_gpus must be 1 with gpu_share: {self.gpu_share}, of which a pod can use one only; got "
                f"{self.num_gpus}"
            )
        if amount(self.shared_memory) > amount(self.memory):
            raise ValueError(
                f"shared_memory must not exceed memory ({self.memory}), as which it counts; got {self.shared_memory}"
            )
        return self

    def for_commit(self, commit: str) -> Profile:
        """Return it with the image of a commit, which a trainer needs; a tag cannot hold the + of a commit's name."""
        return self.model_copy(update={"image": self.image.replace("{commit}", commit.replace("+", "-"))})

    @property
    def gpu_resource(self) -> str:
        """Name of what it asks for: a whole GPU, a share of a time-sliced one, or a MIG slice."""
        return {"whole": GPU, "time_slice": f"{GPU}.shared"}.get(self.gpu_share, f"nvidia.com/{self.gpu_share}")

    @property
    def text(self) -> str:
        """Where it trains, in words."""
        gpus = f"{self.num_gpus} GPU{'' if self.num_gpus == 1 else 's'}"
        return f"in a pod with {gpus}" if self.num_pods == 1 else f"in {self.num_pods} pods with {gpus} each"

    @property
    def world_size(self) -> int:
        """Processes of a distributed training: one a GPU, or one a pod without GPUs."""
        return self.num_pods * max(1, self.num_gpus)


class ProfilesFile(Frozen):
    """All of profiles.yaml."""

    schema_version: Literal[1]
    default: Identifier = Field(description="Of models that name none.")
    default_without_gpu: Identifier = Field(description="Of models that name none and set num_gpus: 0.")
    profiles: dict[Identifier, Profile] = Field(min_length=1)


def read_profiles() -> ProfilesFile:
    """Read profiles.yaml.

    Raises:
        SetupError: There is none, or it cannot be used.
    """
    path = Path(os.environ.get(VARIABLE) or FILE)
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise SetupError(
            f"GPU profiles must be in {path}; got {error}. Nothing new was started. Write the file, or "
            f"unset {VARIABLE}."
        ) from error


@cache
def _read(path: Path, _mtime_ns: int) -> ProfilesFile:
    try:
        found = ProfilesFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise SetupError(
            f"{path} must hold GPU profiles; got {_problems(error)}. Nothing new was started. Mend it."
        ) from error
    for name in (found.default, found.default_without_gpu):
        _named(found, name)
    return found


def _problems(error: Exception) -> str:
    if isinstance(error, ValidationError):
        told = [e for e in error.errors() if e["type"] != "default_factory_not_called"]  # it follows from the others
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or '(file)'}: {e['msg']}" for e in told[:5])
    return str(error)


def resolve_profile(training: TrainingSpec, *, name: str = "") -> Profile:
    """Return the profile of a training, with what the model's `training.pod` sets otherwise.

    Args:
        training: The model's `training`.
        name: A profile; empty: the model's, or else the file's default.

    Raises:
        SetupError: There is no such profile, or what the model sets does not fit it.
    """
    return profile_with(name or training.profile or "", own=training.pod)


def profile_with(name: str, *, own: GpuPodSpec | None) -> Profile:
    """Return a profile with what a model sets otherwise.

    Args:
        name: The profile; empty: the file's default.
        own: The model's `training.pod`.

    Raises:
        SetupError: As for `resolve_profile`.
    """
    found = read_profiles()
    fields = own.model_dump(exclude_unset=True, exclude_none=True) if own else {}
    chosen = name or (found.default_without_gpu if fields.get("num_gpus") == 0 else found.default)
    base = _named(found, chosen)
    if not fields:
        return base
    try:
        return Profile.model_validate(_merged(base, fields))
    except ValidationError as error:
        raise SetupError(
            f"profile {chosen!r} with the model's training.pod must be possible; got {_problems(error)}. Nothing new "
            "was started. Leave the field out of training.pod, or name another profile."
        ) from error


def _merged(base: Profile, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a profile's fields with a model's own, by the profile's names; /dev/shm shrinks with the memory."""
    fields = base.model_dump(exclude_unset=True)
    if "memory" in own and "shared_memory" in fields:
        fields["shared_memory"] = min(base.shared_memory, own["memory"], key=amount)
    return fields | {{"schedule_timeout_s": "pending_s"}.get(name, name): value for name, value in own.items()}


def _named(found: ProfilesFile, name: str) -> Profile:
    if name not in found.profiles:
        raise SetupError(
            f"profile {name!r} must be in profiles.yaml; {nearest(name, sorted(found.profiles))}. Nothing new was "
            "started. Name one of them in training.profile, or add it."
        )
    return found.profiles[name]
