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
    """

    api: KubernetesObjects
    work: Work
    watch: Watch
    log: Any

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
            self._pass_on_log(found)
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

    def _pass_on_log(self, found: Mapping[str, Any]) -> None:
        """Log what the pod has printed and no triggerer has read, as when it ended while nobody looked."""
        if self.watch.selector:
            return
        since = Place.noted(found)
        unread = Unread(since)
        for line in self.api.log(self.watch.owner, **since.query(self.watch.container)).split("\n"):
            if (said := unread.take(line)) is not None:
                self.log.info("%s", said)
        if unread.place != since:
            with suppress(TradewindError):  # a line that comes twice is no reason to leave it running
                self.api.patch(self.watch.owner, unread.place.note)
