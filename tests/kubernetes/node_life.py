"""What becomes of a scripted cluster's nodes, and of the pods on them: added, lost, cut off and healed, removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.kubernetes.pods import ENDED, PODS
from tests.kubernetes.store import Key

if TYPE_CHECKING:
    from tests.kubernetes.nodes import Node
    from tests.kubernetes.pods import Kubelets
    from tests.kubernetes.store import Object


@dataclass(kw_only=True)
class NodeController:
    """The node controller, the taint manager and the pod garbage collector.

    Attributes:
        kubelets: Whose nodes.
        unreachable_s: Until the pods of a lost node are evicted.
    """

    kubelets: Kubelets
    unreachable_s: float = 300.0

    def __post_init__(self) -> None:
        """Show the nodes that are there."""
        self.store = self.kubelets.store
        for node in list(self.kubelets.nodes.values()):
            self.add(node)

    def lose(self, name: str, *, partition: bool = False) -> None:
        """Cut a node off; its processes are gone with it, or go on unseen in a mere `partition`."""
        node = self.kubelets.nodes[name]
        node.ready = False
        self._write_node(node)
        for key, pod in self._pods_on(name):
            for process in self.kubelets.processes[pod["metadata"]["uid"]].values():
                process.exited = lambda _code: None
                if not partition:
                    process.kill()
            if pod["status"]["phase"] in ENDED:
                continue
            self.kubelets.condition(key, "Ready", "False", "NodeNotReady")
            self.store.changed(key)
            self.kubelets.event(key, "Warning", "NodeNotReady", "Node is not ready")
            patience = self._patience(pod)
            if patience is not None:
                self.kubelets.later(patience, key, pod["metadata"]["uid"], self._evict_unreachable)

    def heal(self, name: str) -> None:
        """Bring a node back with what runs on it; its kubelet hears what was asked of it, and says what was."""
        if name not in self.kubelets.nodes:
            return  # it was taken out of the cluster meanwhile
        node = self.kubelets.nodes[name]
        node.ready = True
        self._write_node(node)
        for key, pod in self._pods_on(name):
            processes = self.kubelets.processes[pod["metadata"]["uid"]]
            for process in processes.values():
                process.exited = self.kubelets.exit_of(key)
            if pod["status"]["phase"] in ENDED:
                continue
            self.kubelets.condition(key, "Ready", "True")
            self.store.changed(key)
            self.kubelets.exited(key)
            if "deletionTimestamp" in pod["metadata"] and pod["status"]["phase"] not in ENDED:
                self.kubelets.stop(key, pod["metadata"]["deletionGracePeriodSeconds"], first=True)

    def remove(self, name: str) -> None:
        """Take a node away; the pod garbage collector takes its pods."""
        if self.kubelets.nodes.pop(name, None) is None:
            return
        for key, pod in self._pods_on(name):
            for process in self.kubelets.processes[pod["metadata"]["uid"]].values():
                process.vanish()
            if pod["status"]["phase"] not in ENDED:
                self.kubelets.condition(
                    key, "DisruptionTarget", "True", "DeletionByPodGC", "PodGC: node no longer exists"
                )
                pod["status"]["phase"] = "Failed"
                self.store.changed(key)
            self.store.remove(key)
        self.store.remove(Key("v1", "nodes", "", name))

    def add(self, node: Node) -> None:
        """Put a node into the cluster, or bring one back; what waited is scheduled."""
        node.ready = True
        self.kubelets.nodes[node.name] = node
        self._write_node(node)
        for key, pod in list(self.store.objects.items()):
            if key.kind == PODS and pod["status"]["phase"] == "Pending":
                self.kubelets.schedule(key)

    def _write_node(self, node: Node) -> None:
        key = Key("v1", "nodes", "", node.name)
        if key in self.store.objects:
            self.store.patch(key, node.manifest)
        else:
            self.store.create(key, node.manifest)

    def _pods_on(self, node: str) -> list[tuple[Key, Object]]:
        pods = [(key, found) for key, found in self.store.objects.items() if key.kind == PODS]
        return [(key, pod) for key, pod in pods if pod["spec"].get("nodeName") == node]

    def _patience(self, pod: Object) -> float | None:
        for toleration in pod["spec"].get("tolerations") or ():
            concerned = toleration.get("key") in (None, "node.kubernetes.io/unreachable")
            evicted = toleration.get("effect") in (None, "", "NoExecute")
            if concerned and evicted and toleration.get("operator") == "Exists":
                return toleration.get("tolerationSeconds")
        return self.unreachable_s

    def _evict_unreachable(self, key: Key) -> None:
        node = self.kubelets.nodes.get(self.store.objects[key]["spec"]["nodeName"])
        if node is not None and not node.ready:
            self.kubelets.condition(
                key, "DisruptionTarget", "True", "DeletionByTaintManager", "Taint manager: deleting"
            )
            self.kubelets.delete(key)
