"""Where pods go: nodes with their room and taints, and a scheduler that says why none fits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GPU = "nvidia.com/gpu"
GPU_TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}
_UNITS = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 1e3, "M": 1e6, "G": 1e9, "": 1.0}


@dataclass(kw_only=True)
class Node:
    """A machine of the cluster.

    Attributes:
        name: Its name.
        room: What pods may ask for in all, by resource.
        labels: What selectors and affinities see.
        taints: What a pod has to tolerate.
        ready: Whether its kubelet is heard of.
    """

    name: str
    room: Mapping[str, str]
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[dict[str, str]] = field(default_factory=list)
    ready: bool = True

    @property
    def manifest(self) -> dict[str, Any]:
        """Return the node as the API shows it."""
        status = "True" if self.ready else "Unknown"
        room = {"pods": "110", **self.room}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"labels": {"kubernetes.io/hostname": self.name, **self.labels}},
            "spec": {"taints": self.taints} if self.taints else {},
            "status": {"allocatable": room, "capacity": room, "conditions": [{"type": "Ready", "status": status}]},
        }


def two_nodes() -> tuple[Node, ...]:
    """Return a node with eight GPUs, tainted as usual, and one without."""
    gpu = Node(
        name="gpu-0",
        room={"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", GPU: "8"},
        labels={"nvidia.com/gpu.product": "NVIDIA-H200", "nvidia.com/gpu.present": "true"},
        taints=[dict(GPU_TAINT)],
    )
    return gpu, Node(name="cpu-0", room={"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi"})


def quantity(written: str | float) -> float:
    """Return an amount in its base unit: `500m` is 0.5, `1Ki` is 1024."""
    text = str(written)
    unit = text.lstrip("0123456789.-")
    return float(text[: len(text) - len(unit)]) * _UNITS[unit]


def wanted(spec: Mapping[str, Any]) -> Counter[str]:
    """Return what a pod's containers ask for in all."""
    found: Counter[str] = Counter()
    for container in spec["containers"]:
        resources = container.get("resources") or {}
        asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        for name, amount in asked.items():
            found[name] += quantity(amount)  # type: ignore[assignment]
    return found


def choose_node(spec: Mapping[str, Any], nodes: Iterable[Node], used: Mapping[str, Counter[str]]) -> Node | str:
    """Return the node for a pod, or the scheduler's words why there is none."""
    against: Counter[str] = Counter()
    nodes = list(nodes)
    for node in nodes:
        reason = _misfit(spec, node, used.get(node.name, Counter()))
        if reason is None:
            return node
        against[reason] += 1
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(against.items()))
    return (
        f"0/{len(nodes)} nodes are available: {reasons}. preemption: 0/{len(nodes)} nodes are available: "
        f"{len(nodes)} Preemption is not helpful for scheduling."
    )


def _misfit(spec: Mapping[str, Any], node: Node, used: Counter[str]) -> str | None:
    if not node.ready:
        return "node(s) had untolerated taint {node.kubernetes.io/unreachable: }"
    for taint in node.taints:
        if taint["effect"] != "PreferNoSchedule" and not tolerates(spec, taint):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    labels = node.manifest["metadata"]["labels"]
    chosen = all(labels.get(name) == value for name, value in (spec.get("nodeSelector") or {}).items())
    if not chosen or not _affine(spec, labels):
        return "node(s) didn't match Pod's node affinity/selector"
    for name, amount in sorted(wanted(spec).items()):
        if amount and used[name] + amount > quantity(node.room.get(name, 0)):
            return f"Insufficient {name}"
    return None


def tolerates(spec: Mapping[str, Any], taint: Mapping[str, str]) -> bool:
    """Return whether a pod tolerates a taint."""
    return any(
        toleration.get("key") in (None, taint["key"])
        and toleration.get("effect") in (None, "", taint["effect"])
        and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))
        for toleration in spec.get("tolerations") or ()
    )


def _affine(spec: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    node_affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or any(
        all(_expressed(expression, labels) for expression in term.get("matchExpressions") or ())
        for term in required["nodeSelectorTerms"]
    )


def _expressed(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or ()
    return {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[expression["operator"]]
