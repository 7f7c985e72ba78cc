from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import TaskDeferred

from include.cluster.conditions import Verdict
from include.errors import ServiceError
from operators.hooks.kubernetes_calls import object_path
from operators.hooks.kubernetes_objects import DEFAULT_CONN, KubernetesObjects
from sensors.triggers.custom_resource import CustomResourceTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class CustomResourceConditionSensor(BaseSensorOperator):
    """Waits until an object of Kubernetes that somebody else has made fulfils a rule; it may come to be meanwhile.

    It waits in the triggerer and changes nothing: killed, timed out or cleared, the object is left as it is. It fails
    when a rule of `failed_if` holds, or after `timeout`.

    Args:
        name: Of the object. Templated.
        namespace: Of the object. Templated.
        api_version: Such as `serving.kserve.io/v1beta1`.
        plural: What the API calls the kind, such as `inferenceservices`.
        until: Rules of which one must hold: a condition (`Ready`, `Ready=False`) or a field (`.status.phase=Bound`).
        failed_if: Rules of which none may hold.
        kubernetes_conn_id: Connection of Kubernetes.

    Returns:
        `path`, `conditions` (type -> status).

    Raises:
        ServiceError: The object failed, or did not come to it in time.
    """

    template_fields: ClassVar[Sequence[str]] = ("name", "namespace")

    def __init__(
        self,
        *,
        name: str,
        namespace: str,
        api_version: str,
        plural: str,
        until: Sequence[str] = ("Ready",),
        failed_if: Sequence[str] = (),
        kubernetes_conn_id: str = DEFAULT_CONN,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.namespace = namespace
        self.api_version = api_version
        self.plural = plural
        self.until = until
        self.failed_if = failed_if
        self.kubernetes_conn_id = kubernetes_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it by name
        """Hand over to the triggerer."""
        KubernetesObjects(self.kubernetes_conn_id).connect()  # an unusable connection is told here, in clear words
        path = object_path(api_version=self.api_version, plural=self.plural, namespace=self.namespace, name=self.name)
        trigger = CustomResourceTrigger(
            conn_id=self.kubernetes_conn_id,
            path=path,
            until=self.until,
            failed_if=self.failed_if,
            poll_s=self.poke_interval,
            timeout_s=self.timeout,
            may_come_later=True,
            delete_on_kill=False,
        )
        raise TaskDeferred(trigger=trigger, method_name="resume", kwargs={"path": path})

    def resume(self, context: Context, event: dict[str, Any], path: str) -> dict[str, Any]:  # noqa: ARG002 - as above
        """Return the object's conditions, or raise what it came to."""
        if event["verdict"] != Verdict.REACHED:
            raise ServiceError(
                f"{path} must come to {' or '.join(self.until)} within {self.timeout:g} s; got {event['verdict']}: "
                f"{event['words']}. It was left as it is. A retry waits again."
            )
        return {"path": path, "conditions": event["conditions"]}
