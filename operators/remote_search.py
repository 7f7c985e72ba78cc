"""What is there of one work on a cluster, whatever kind and name it has, and the end of what is left over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.training.manifests import KINDS
from include.training.sweep import has_ended
from operators.hooks.kubernetes_calls import RefusedError, object_path
from sensors.triggers.remote_training import told_to_end

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.training.watch import Watch
    from operators.hooks.kubernetes_objects import KubernetesObjects
    from operators.remote_work import Work


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object of the work, and where the API keeps it.

    Attributes:
        path: Of the object.
        item: The object.
        goes_on: Whether it is the work itself, and nobody has told it to end or decided on its end.
    """

    path: str
    item: Mapping[str, Any]
    goes_on: bool


@dataclass(frozen=True, kw_only=True)
class Search:
    """Looks for one work by its labels: another release, or another runner, may have given it another name or kind.

    Attributes:
        api: The cluster's API.
        work: The work.
        watch: Names its owner, as the present runner would make it.
        log: The task's.
    """

    api: KubernetesObjects
    work: Work
    watch: Watch
    log: Any

    def find(self) -> Found | None:
        """Return what is there of the task instance; what is left of other work is deleted first, and may take a while.

        Work of another runner is left over too. Pods without an owner count as work that was told to end, and are told
        so here: nothing else may.

        Raises:
            RefusedError: What is left may not be deleted.
            ServiceError: The cluster does not answer.
        """
        owners, orphans = self._there()
        for found in owners:
            if not found.goes_on:
                self._delete_first(found)
        own = next((found for found in owners if found.goes_on), None)
        if own is not None:
            self.log.info("found %s, and go on with it", own.path)
            return own
        if not owners:
            for pod in orphans:
                if not pod.item["metadata"].get("deletionTimestamp"):
                    self._delete_first(pod)
        return self._left() if owners or orphans else None

    def _left(self) -> Found | None:
        """Return what is still there after all was told to end."""
        owners, orphans = self._there()
        if owners:
            return owners[0]
        item = told_to_end(self.watch.owner)
        return Found(path=self.watch.owner, item=item, goes_on=False) if orphans else None

    def _there(self) -> tuple[Sequence[Found], Sequence[Found]]:
        """Return what owns itself, and pods that live and belong to something: to nothing, if nothing owns itself."""
        owners: list[Found] = []
        orphans: list[Found] = []
        for version, plural in KINDS.values():
            folder = self._folder(version, plural)
            is_own = self.watch.owner.startswith(f"{folder}/")
            items = self._labelled(folder) if is_own or plural == "pods" else self._of_others(folder)
            for item in items:
                found = Found(
                    path=f"{folder}/{item['metadata']['name']}", item=item, goes_on=is_own and self.work.is_own(item)
                )
                if item["metadata"].get("ownerReferences"):
                    orphans += [found] if plural == "pods" and not has_ended(item) else []
                elif is_own or not has_ended(item):
                    owners.append(found)
        return owners, orphans

    def _of_others(self, folder: str) -> Sequence[Mapping[str, Any]]:
        """Return what another runner has made; who may not look there has made nothing there."""
        try:
            return self._labelled(folder)
        except RefusedError:
            return ()

    def _labelled(self, folder: str) -> Sequence[Mapping[str, Any]]:
        return (self.api.get(folder, labelSelector=self.work.selector) or {}).get("items") or ()

    def _folder(self, version: str, plural: str) -> str:
        return object_path(api_version=version, plural=plural, namespace=self.watch.namespace)

    def _delete_first(self, found: Found) -> None:
        self.log.info("%s is left over, and deleted first", found.path)
        self.api.delete(found.path, grace_s=int(self.watch.grace_s), uid=found.item["metadata"]["uid"])
