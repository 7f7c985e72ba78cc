"""Why no node takes a pod: the scheduler's filters, over nodes as Kubernetes' API writes them.

Filters: taints and tolerations, node selector, required node affinity, and the node's allocatable amounts. What other
pods hold is left out, so this says *no node ever could*, not *none can now*; an autoscaler may still add one. Source:
Kubernetes' documentation, "Taints and Tolerations" and "Assigning Pods to Nodes".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Seen = Mapping[str, Any]

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_SCALES = {"": 1.0, "m": 1e-3} | {
    letter + suffix: base**power
    for power, letter in enumerate("kMGTP", start=1)
    for suffix, base in (("", 1000.0), ("i", 1024.0))
}
_QUANTITY = re.compile(r"^([0-9.]+)([a-zA-Z]*)$")


def amount(quantity: str | float) -> float:
    """Return an amount as a number.

    >>> amount("500m"), amount("2Gi"), amount(4)
    (0.5, 2147483648.0, 4.0)
    """
    found = _QUANTITY.match(str(quantity))
    if found is None:
        return 0.0
    return float(found[1]) * _SCALES.get(found[2].replace("K", "k"), 1.0)


def why_no_node(pod_spec: Seen, nodes: Sequence[Seen]) -> tuple[str, ...]:
    """Return why none of the nodes can ever take the pod, a reason with its number of nodes each; empty: one can."""
    if not nodes:
        return ("the cluster has no nodes",)
    found = [refusals(pod_spec, node) for node in nodes]
    if not all(found):
        return ()
    reasons = sorted({reason for refused in found for reason in refused})
    return tuple(f"{sum(reason in refused for refused in found)} of {len(nodes)} nodes: {reason}" for reason in reasons)


def refusals(pod_spec: Seen, node: Seen) -> tuple[str, ...]:
    """Return why one node does not take the pod; empty: it does."""
    return (*_by_taints(pod_spec, node), *_by_labels(pod_spec, node), *_by_amounts(pod_spec, node))


def _by_taints(pod_spec: Seen, node: Seen) -> tuple[str, ...]:
    tolerations = pod_spec.get("tolerations") or ()
    hard = [taint for taint in node.get("spec", {}).get("taints") or () if taint.get("effect") != "PreferNoSchedule"]
    missing = [taint for taint in hard if not any(_tolerates(found, taint) for found in tolerations)]
    return tuple(f"taint {taint['key']} is not tolerated" for taint in missing)


def _tolerates(toleration: Seen, taint: Seen) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value") == taint.get("value")


def _by_labels(pod_spec: Seen, node: Seen) -> tuple[str, ...]:
    labels = node.get("metadata", {}).get("labels") or {}
    selector = pod_spec.get("nodeSelector") or {}
    wrong = tuple(f"no label {key}={value}" for key, value in selector.items() if labels.get(key) != value)
    affinity = ((pod_spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)
    terms = (affinity or {}).get("nodeSelectorTerms") or ()
    if terms and not any(_matches(term, labels) for term in terms):
        wrong += tuple(f"affinity: {text}" for text in dict.fromkeys(_words(expr) for expr in _expressions(terms)))
    return wrong


def _expressions(terms: Sequence[Seen]) -> list[Seen]:
    return [expression for term in terms for expression in term.get("matchExpressions") or ()]


def _words(expression: Seen) -> str:
    return " ".join([expression["key"], expression["operator"], *expression.get("values", ())])


def _matches(term: Seen, labels: Seen) -> bool:
    return all(_holds(expression, labels) for expression in term.get("matchExpressions") or ())


def _holds(expression: Seen, labels: Seen) -> bool:
    found, values = labels.get(expression["key"]), expression.get("values") or ()
    return {
        "In": found in values,
        "NotIn": found not in values,
        "Exists": found is not None,
        "DoesNotExist": found is None,
    }.get(expression["operator"], True)


def _by_amounts(pod_spec: Seen, node: Seen) -> tuple[str, ...]:
    has = node.get("status", {}).get("allocatable") or {}
    asked: dict[str, float] = {}
    for container in pod_spec.get("containers") or ():
        resources = container.get("resources") or {}
        for name, value in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items():
            asked[name] = asked.get(name, 0.0) + amount(value)
    return tuple(
        f"{name}: asked for {value:g}, has {amount(has.get(name, 0)):g}"
        for name, value in asked.items()
        if value > amount(has.get(name, 0))
    )
