from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import TaskDeferred

from include.cluster.conditions import Verdict
from include.errors import BadInputError, ServiceError
from operators.hooks.kubernetes_calls import object_path
from operators.hooks.kubernetes_objects import DEFAULT_CONN, KubernetesObjects
from sensors.triggers.custom_resource import CustomResourceTrigger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

_POLL_S = 5.0


class CustomResourceOperator(BaseOperator):
    """Makes an object of Kubernetes what a manifest says, waits until its controller is done, and deletes it on wish.

    It applies the manifest by server-side apply, so running it twice changes nothing, and a retry goes on with the
    object that is there. Any kind will do: a custom resource, or one of Kubernetes' own such as a Job. It waits in the
    triggerer; an API that does not answer is asked again. What a controller said about an older version of the object
    (`observedGeneration`) does not count.

    Args:
        manifest: The object, with `apiVersion`, `kind`, `metadata.name` and `metadata.namespace`. Templated.
        until: Rules of which one must hold: a condition (`Ready`, `Ready=False`) or a field (`.status.phase=Bound`);
            empty: it is applied and not waited for.
        failed_if: Rules of which none may hold.
        plural: What the API calls the kind; empty: its lower case with an s.
        delete: never; killed: when the task is killed or times out; always: also when it has come to its end.
        kubernetes_conn_id: Connection of Kubernetes.
        wait_s: Seconds to wait at most.

    Returns:
        `path`, `uid`, `conditions` (type -> status).

    Raises:
        BadInputError: The manifest lacks a name, or a rule is none.
        RefusedError: The API refuses the object.
        ServiceError: Its controller failed, it is gone, or it was not done in time.
    """

    template_fields: ClassVar[Sequence[str]] = ("manifest",)

    def __init__(
        self,
        *,
        manifest: Mapping[str, Any],
        until: Sequence[str] = ("Ready",),
        failed_if: Sequence[str] = ("Failed",),
        plural: str = "",
        delete: Literal["never", "killed", "always"] = "killed",
        kubernetes_conn_id: str = DEFAULT_CONN,
        wait_s: float = 3600,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.manifest = manifest
        self.until = until
        self.failed_if = failed_if
        self.plural = plural
        self.delete = delete
        self.kubernetes_conn_id = kubernetes_conn_id
        self.wait_s = wait_s

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it by name
        """Apply the manifest, then hand over to the triggerer; what comes back is small and JSON."""
        api = KubernetesObjects(self.kubernetes_conn_id)
        path, applied = apply_manifest(api, self.manifest, plural=self.plural)
        uid = str((applied.get("metadata") or {}).get("uid"))
        self.log.info("applied %s", path)
        if not self.until:
            return {"path": path, "uid": uid, "conditions": {}}
        trigger = CustomResourceTrigger(
            conn_id=self.kubernetes_conn_id,
            path=path,
            until=self.until,
            failed_if=self.failed_if,
            poll_s=_POLL_S,
            timeout_s=self.wait_s,
            may_come_later=False,
            delete_on_kill=self.delete != "never",
        )
        raise TaskDeferred(trigger=trigger, method_name="resume", kwargs={"path": path, "uid": uid})

    def resume(self, context: Context, event: dict[str, Any], path: str, uid: str) -> dict[str, Any]:  # noqa: ARG002
        """Delete the object if asked to; return its conditions, or raise what it came to."""
        verdict = Verdict(event["verdict"])
        deletes = self.delete == "always" or (self.delete == "killed" and verdict is Verdict.TIMED_OUT)
        if deletes:
            KubernetesObjects(self.kubernetes_conn_id).delete(path, uid=uid)
        if verdict is not Verdict.REACHED:
            state = "It was deleted." if deletes or verdict is Verdict.GONE else "It is still there."
            raise ServiceError(
                f"{path} must come to {' or '.join(self.until)} within {self.wait_s:g} s; got {verdict}: "
                f"{event['words']}. {state} A retry applies and waits again."
            )
        return {"path": path, "uid": uid, "conditions": event["conditions"]}

    def on_kill(self) -> None:
        """Delete the object unless told never to."""
        if self.delete != "never":
            KubernetesObjects(self.kubernetes_conn_id).delete(manifest_path(self.manifest, plural=self.plural))


def apply_manifest(
    api: KubernetesObjects, manifest: Mapping[str, Any], *, plural: str = "", owner: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Make an object what a manifest says; return where the API keeps it, and the object.

    Args:
        api: The API.
        manifest: The object.
        plural: What the API calls the kind; empty: its lower case with an s.
        owner: What it is deleted with; None: nothing.

    Raises:
        BadInputError: The manifest lacks a name.
        RefusedError: The API refuses the object.
    """
    path = manifest_path(manifest, plural=plural)
    if owner is not None:
        names = {key: owner["metadata"][key] for key in ("name", "uid")}
        reference = {key: owner[key] for key in ("apiVersion", "kind")} | names
        manifest = {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [reference]}}
    return path, api.apply(path, manifest)


def manifest_path(manifest: Mapping[str, Any], *, plural: str = "") -> str:
    """Return where the API keeps the object of a manifest.

    Raises:
        BadInputError: It lacks `apiVersion`, `kind`, a name or a namespace.
    """
    metadata = manifest.get("metadata") or {}
    held = (manifest.get("apiVersion"), manifest.get("kind"), metadata.get("namespace"), metadata.get("name"))
    if not all(held):
        raise BadInputError(
            "a manifest must have apiVersion, kind, metadata.namespace and metadata.name; got "
            f"{', '.join(str(each) for each in held)}. Nothing was applied. Add what is missing."
        )
    version, kind, namespace, name = (str(each) for each in held)
    return object_path(api_version=version, plural=plural or f"{kind.lower()}s", namespace=namespace, name=name)
