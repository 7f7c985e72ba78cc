"""What a profile means for parts of a pod: its environment, its nodes, its rights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.training.command import STORAGE_VARIABLES
from include.training.preflight import GPUS_VARIABLE
from include.training.profiles import GPU_PRESENT, GPU_PRODUCT
from include.training.resources import PRICE_VARIABLE
from include.training.scheduling import REQUIRED

if TYPE_CHECKING:
    from include.training.profiles import Profile


def environment(profile: Profile) -> list[dict[str, Any]]:
    """Return what the trainer cannot see for itself: its GPUs, which it checks first, and what an hour costs."""
    price = profile.price_per_hour * profile.num_pods
    found = {GPUS_VARIABLE: profile.num_gpus, PRICE_VARIABLE: price}
    return [{"name": name, "value": f"{value:g}"} for name, value in found.items() if value]


def storage_environment(profile: Profile) -> list[dict[str, Any]]:
    """Return what opens the storage, key by key: a TrainJob takes no whole Secret."""
    if not profile.env_secret:
        return []
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": profile.env_secret, "key": name, "optional": True}}}
        for name in STORAGE_VARIABLES
    ]


def node_selector(profile: Profile) -> dict[str, str]:
    """Return the labels that a node must have."""
    kind = {GPU_PRODUCT: profile.gpu_kind} if profile.gpu_kind else {}
    return kind | profile.node_selector


def node_affinity(profile: Profile) -> dict[str, Any]:
    """Return the profile's own affinity, with what keeps work without GPUs away from nodes with any."""
    operator = "Exists" if profile.num_gpus else "DoesNotExist"
    wanted = {"key": GPU_PRESENT, "operator": operator}
    own: dict[str, Any] = {**profile.node_affinity}
    terms = own.get(REQUIRED, {}).get("nodeSelectorTerms") or [{}]
    with_ours = [term | {"matchExpressions": [*term.get("matchExpressions", ()), wanted]} for term in terms]
    return own | {REQUIRED: {"nodeSelectorTerms": with_ours}}


def pod_security(profile: Profile) -> dict[str, Any]:
    """Return who the trainer is: never root, and with the profile's user."""
    security = profile.security
    found: dict[str, Any] = {
        "runAsNonRoot": True,
        "runAsUser": security.run_as_user,
        "runAsGroup": security.run_as_group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return found | ({"fsGroup": security.fs_group} if security.fs_group else {})
