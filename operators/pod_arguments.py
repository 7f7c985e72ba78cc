"""What a training's pod takes of KubernetesPodOperator's arguments, and what is said instead of the others."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

from include.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TAKEN = frozenset(
    {
        "annotations",
        "env_vars",
        "image_pull_policy",
        "init_containers",
        "kubernetes_conn_id",
        "labels",
        "poll_interval",
        "runtime_class_name",
        "volume_mounts",
        "volumes",
    }
)
"""What an author may pass of KubernetesPodOperator's arguments: no profile says it, and nothing waits by it."""
_REFUSED = {
    name: parameter.default
    for name, parameter in signature(KubernetesPodOperator).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in _TAKEN
}
_FIELDS = {
    "active_deadline_seconds": "deadline_s",
    "affinity": "node_affinity",
    "automount_service_account_token": "service_account",
    "container_resources": "num_gpus, cpu, memory, disk",
    "container_security_context": "security",
    "env_from": "env_secret",
    "image": "image",
    "image_pull_secrets": "image_pull_secret",
    "namespace": "namespace",
    "node_selector": "node_selector",
    "priority_class_name": "priority_class",
    "schedule_timeout_seconds": "pending_s",
    "secrets": "env_secret",
    "security_context": "security",
    "service_account_name": "service_account",
    "startup_timeout_seconds": "pending_s",
    "termination_grace_period": "grace_s",
    "tolerations": "tolerations",
}
"""Argument of KubernetesPodOperator -> the profile's fields that do it."""
SETTINGS: dict[str, Any] = _REFUSED | {
    "random_name_suffix": False,
    "deferrable": True,
    "on_finish_action": "keep_pod",
    "log_pod_spec_on_failure": False,
    "do_xcom_push": True,
    "termination_message_policy": "FallbackToLogsOnError",
}
"""What KubernetesPodOperator gets whatever a Dag's `default_args` have for its other pods."""


def refuse_others(given: Mapping[str, Any]) -> None:
    """Refuse arguments of KubernetesPodOperator that would do nothing, or something else than is waited for.

    Raises:
        BadInputError: There are some.
    """
    if not (refused := sorted(_REFUSED.keys() & given.keys())):
        return
    remedies = [
        f"set {_FIELDS[name]} of the profile for {name}" if name in _FIELDS else f"leave {name} out" for name in refused
    ]
    raise BadInputError(
        f"a GpuTrainingPodOperator may have of KubernetesPodOperator's arguments {', '.join(sorted(_TAKEN))}; got "
        f"{', '.join(refused)}. No task was made. Instead, {'; '.join(remedies)}."
    )
