"""The objects of one training on a cluster: marked, ended, and their log read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException

from include.errors import TradewindError
from include.training.manifests import pod_spec
from include.training.scheduling import why_no_node
from include.training.sweep import has_ended
from operators.hooks.kubernetes_calls import object_path
from operators.remote_work import SETTLED
from sensors.triggers.pod_log import Place, Unread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.training.watch import Watch
    from operators.hooks.kubernetes_objects import KubernetesObjects
    from operators.remote_work import Work


@dataclass(frozen=True, kw_only=True)
class OnCluster:
    """The objects of one work; what cannot be ended now, the janitor finds.

    Attributes:
        api: The cluster's API.
        work: The work.
        watch: Names its owner: the pod, its Job or its TrainJob.
        log: The task's.
        since_s: When this worker began with it, by its steady clock.
    """

    api: KubernetesObjects
    work: Work
    watch: Watch
    log: Any
    since_s: float

    def settle(self) -> None:
        """Mark the work as decided on, and end it if it still runs."""
        try:
            self.api.patch(self.watch.owner, {"metadata": {"annotations": {SETTLED: "true"}}})
        except TradewindError as error:
            self.log.warning("%s", error)
        self.end()

    def end(self) -> None:
        """Delete work that has not ended; what has ended is kept, for its log, until the janitor comes."""
        try:
            found = self.api.get(self.watch.owner)
            if found is None:
                return
            with suppress(TradewindError):  # no log is a reason to leave it running
                self._pass_on_logs(found)
            if not has_ended(found):
                self.api.delete(self.watch.owner, grace_s=int(self.watch.grace_s))
        except (TradewindError, AirflowException) as error:
            self.log.warning("%s The janitor deletes what is left.", error)

    def delete(self, *, grace_s: float) -> None:
        """Delete it: its trainer gets SIGTERM and its grace."""
        self._delete(self.watch.owner, grace_s=grace_s)

    def delete_by_force(self, pods: Sequence[Mapping[str, Any]]) -> None:
        """Delete it, and those of its pods that were told to end: their node cannot say that they have."""
        for metadata in (pod["metadata"] for pod in pods):
            if metadata["deletionTimestamp"]:
                where = {"namespace": self.watch.namespace, "name": metadata["name"]}
                path = object_path(api_version="v1", plural="pods", **where)
                self._delete(path, grace_s=0, uid=metadata.get("uid"))
        self.delete(grace_s=0)

    def _delete(self, path: str, *, grace_s: float, uid: str | None = None) -> None:
        try:
            self.api.delete(path, grace_s=int(grace_s), uid=uid)
        except TradewindError as error:
            self.log.warning("%s The janitor deletes what is left.", error)

    def why_no_node(self) -> tuple[str, ...]:
        """Return why no node of the cluster ever could; nothing without the right to read nodes."""
        try:
            nodes = (self.api.get("/api/v1/nodes") or {}).get("items") or ()
        except TradewindError:
            return ()
        return why_no_node(pod_spec(self.work.training, command=[]), nodes)

    def _pass_on_logs(self, owner: Mapping[str, Any]) -> None:
        """Log what its pods have printed and no triggerer has read, as when they ended while nobody looked.

        Of several pods the one of the first process comes first.
        """
        pods, folder = [owner], object_path(api_version="v1", plural="pods", namespace=self.watch.namespace)
        if self.watch.selector:
            listed = self.api.get(folder, labelSelector=self.watch.selector) or {}
            pods = sorted(listed.get("items") or (), key=lambda pod: str(pod["metadata"]["name"]))
        for pod in pods:
            name = pod["metadata"]["name"]
            self._pass_on_log(pod, path=f"{folder}/{name}", prefix=f"[{name}] " if self.watch.selector else "")

    def _pass_on_log(self, pod: Mapping[str, Any], *, path: str, prefix: str) -> None:
        since = Place.noted(pod)
        unread = Unread(since)
        for line in self.api.log(path, **since.query(self.watch.container)).split("\n"):
            if (said := unread.take(line)) is not None:
                self.log.info("%s%s", prefix, said)
        if unread.place != since:
            self.api.patch(path, unread.place.note)
