"""A model's InferenceService in a cluster: read, changed without losing others' changes, and waited for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from include.errors import ServiceError, SetupError
from include.rollout.kserve.knative import REVISIONS, Knative
from include.rollout.kserve.seen import Seen
from include.rollout.kserve.settings import API_VERSION, DEPLOYMENT_MODE, MODE_NAMES, OF_SERVICE, VERSION, service_name
from include.rollout.kserve.standard import Standard
from include.training.pod_status import classify_pod

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from include.rollout.kserve.seen import Mode, Object
    from include.rollout.kserve.settings import KServeSettings

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferenceservices.serving.kserve.io"
_CONFLICT = 409
_NOT_FOUND = 404
_NUM_TRIES = 10
_POLL_S = 2.0


class Objects(Protocol):
    """Reads and writes objects of Kubernetes by path."""

    def get(self, path: str, **query: str) -> dict[str, Any] | None:
        """Return an object, or a list of them; None if there is none."""

    def apply(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object what the manifest says; a `resourceVersion` in it must still be the object's."""

    def delete(self, path: str, *, grace_s: int | None = None, uid: str | None = None) -> None:
        """Delete an object; nothing happens if it is gone."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """The InferenceServices of a namespace.

    Args:
        objects: The cluster's API.
        settings: How models are put there.
        now: Seconds since 1970.
        sleep: Waits some seconds.
    """

    objects: Objects
    settings: KServeSettings
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    @property
    def mode(self) -> Mode:
        """What KServe's deployment mode does."""
        return Knative(self.settings) if self.settings.mode == "Knative" else Standard(self.settings)

    def see(self, model: str) -> Seen:
        """Read the service first: revisions that its status names are then among those read.

        Raises:
            ServiceError: The cluster knows no revisions, or not yet: without them nobody knows the champion.
        """
        name = service_name(model)
        service = self.objects.get(self.settings.service_path(name))
        if service is None or self.settings.mode == "Standard":
            return Seen(service=service)
        listed = self.objects.get(self.revisions, labelSelector=f"{OF_SERVICE}={name}")
        if listed is None:
            raise ServiceError(
                f"GET {self.revisions} must be answered in mode Knative; got 404. The traffic stays as it is. It is "
                "tried again; if it stays so, install Knative Serving, or set the mode Standard."
            )
        return Seen(service=service, revisions=tuple(listed.get("items") or ()))

    @property
    def revisions(self) -> str:
        """Where the API keeps Knative's revisions."""
        return f"/apis/{REVISIONS}/namespaces/{self.settings.namespace}/revisions"

    def change(self, model: str, wanted: Callable[[Seen], Object]) -> None:
        """Apply a specification that follows from what is there; if that changed meanwhile, from what is there then.

        Raises:
            SetupError: KServe refuses it.
        """
        for number in range(_NUM_TRIES):
            seen = self.see(model)
            try:
                self._apply(model, wanted(seen), seen)
            except ServiceError as error:
                if getattr(error, "status", None) != _CONFLICT or number + 1 == _NUM_TRIES:
                    raise
                self.sleep(_POLL_S / 10)
            else:
                return

    def _apply(self, model: str, spec: Object, seen: Seen) -> None:
        name = service_name(model)
        metadata: Object = {
            "name": name,
            "namespace": self.settings.namespace,
            "labels": {"app.kubernetes.io/managed-by": "tradewind"},
            "annotations": {
                DEPLOYMENT_MODE: MODE_NAMES[self.settings.mode],
                "serving.kserve.io/enable-tag-routing": "true",
            },
        }
        if seen.service is not None:
            metadata["resourceVersion"] = seen.service["metadata"]["resourceVersion"]
        manifest = {"apiVersion": API_VERSION, "kind": "InferenceService", "metadata": metadata, "spec": spec}
        try:
            self.objects.apply(self.settings.service_path(name), manifest)
        except SetupError as error:
            is_unknown = getattr(error, "status", None) == _NOT_FOUND
            hint = ": is KServe installed, and is there such a namespace?" if is_unknown else ""
            raise self._refused(model, getattr(error, "reason", str(error)) + hint) from error

    def _refused(self, model: str, reason: str) -> SetupError:
        return SetupError(
            f"KServe must accept InferenceService {self.settings.namespace}/{service_name(model)}; got: {reason}. "
            "Nothing was changed: what served before serves on. Mend the connection's extra, or the account's rights."
        )

    def require_canaries(self) -> None:
        """Refuse Standard mode on a KServe whose InferenceService has no `spec.canary`."""
        if self.settings.mode != "Standard":
            return
        found = self.objects.get(CRD) or {}
        served = [each for each in (found.get("spec") or {}).get("versions") or () if each.get("name") == "v1beta1"]
        spec = (served[0]["schema"]["openAPIV3Schema"]["properties"]["spec"] if served else {}).get("properties", {})
        if "canary" not in spec:
            raise SetupError(
                "KServe in Standard mode must be v0.20 or later, whose InferenceService has spec.canary; got a "
                "definition without it, or none. Nothing was changed. Update KServe, or set the mode Knative."
            )

    def wait_ready(self, model: str, version: str) -> None:
        """Wait until a version is ready and its share is what it shall be.

        Raises:
            SetupError: It was not in time; with the cluster's words.
        """

        def is_ready(seen: Seen) -> bool:
            return self.mode.is_ready(seen, version) and self.mode.is_settled(seen)

        limit_s = self.settings.ready_timeout_s
        try:
            self.wait(model, is_ready, limit_s, what=f"version {version} ready")
        except TimeoutError as error:
            seen = self.see(model)
            reasons = [*self._of_pods(model, version), self.mode.problem(seen, version)]
            raise SetupError(
                f"version {version} of model {model!r} must be ready on KServe within {limit_s:g} s; got "
                f"{'; '.join(reasons)}. It takes no traffic; what served before serves on. Mend the cause, then clear "
                "the task."
            ) from error

    def _of_pods(self, model: str, version: str) -> list[str]:
        """Return what ails a version's pods."""
        path = f"/api/v1/namespaces/{self.settings.namespace}/pods"
        listed = self.objects.get(path, labelSelector=f"{OF_SERVICE}={service_name(model)}") or {}
        pods = [pod for pod in listed.get("items") or () if _annotated(pod, version)]
        failures = [failure for pod in pods if (failure := classify_pod(pod)) is not None]
        return [f"{failure.kind}: {'; '.join(failure.evidence)}" for failure in failures[:1]]

    def wait(self, model: str, is_done: Callable[[Seen], bool], limit_s: float, *, what: str) -> None:
        """Look until something holds.

        Raises:
            TimeoutError: It did not, or an error of the API in its place.
        """
        until_s = self.now() + limit_s
        while not is_done(seen := self.see(model)):
            if self.now() >= until_s:
                raise WaitedTooLongError(
                    f"KServe must have {what} within {limit_s:g} s for model {model!r}; got "
                    f"{seen.said() or 'no word'}. "
                    "What it shall be is in the InferenceService. A retry waits again."
                )
            self.sleep(_POLL_S)


class WaitedTooLongError(ServiceError, TimeoutError):
    """KServe accepted an object and has not come to it."""


def _annotated(found: Object, version: str) -> bool:
    return (found["metadata"].get("annotations") or {}).get(VERSION) == version
