"""The life of a scripted pod: scheduled, pulled, run, ended, deleted with grace, and what else befalls it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.kubernetes.clock import seconds, timestamp
from tests.kubernetes.containers import Process, sleep_and_exit
from tests.kubernetes.nodes import Node, choose_node, two_nodes, wanted
from tests.kubernetes.store import Key, Object

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kubernetes.containers import Program
    from tests.kubernetes.store import Store

PODS = "pods"
ENDED = ("Succeeded", "Failed")
_RESCHEDULE_S = 30.0
_BACK_OFF_S = 20.0
_REMOVAL_S = 0.5


@dataclass(kw_only=True)
class Kubelets:
    """Scheduler and kubelets in one.

    Attributes:
        store: Where the pods are.
        program: What their containers run.
        nodes: The machines, by name.
        missing_images: Those that no registry has.
        schedule_s: Until a pod has its node.
        pull_s: Until its image is there.
        collect_ended_s: Until the object of a pod that has ended is collected; None: never.
    """

    store: Store
    program: Program = field(default_factory=sleep_and_exit)
    nodes: dict[str, Node] = field(default_factory=lambda: {node.name: node for node in two_nodes()})
    missing_images: set[str] = field(default_factory=set)
    schedule_s: float = 0.2
    pull_s: float = 1.0
    collect_ended_s: float | None = None
    processes: dict[str, dict[str, Process]] = field(default_factory=lambda: defaultdict(dict))
    """By the pod's uid and the container's name; they outlive the pod's object, as a process on a lost node does."""

    def created(self, key: Key) -> None:
        """Begin a pod's life."""
        self.store.objects[key].update(apiVersion="v1", kind="Pod")
        self.store.objects[key]["status"] = {"phase": "Pending", "qosClass": "Burstable"}
        uid = self.store.objects[key]["metadata"]["uid"]
        self.later(self.schedule_s, key, uid, self.schedule)

    def find(self, name: str, namespace: str | None = None) -> Key:
        """Return the key of a pod.

        Raises:
            KeyError: There is none.
        """
        for key in self.store.objects:
            if key.kind == PODS and key.name == name and namespace in (None, key.namespace):
                return key
        raise KeyError(name)

    def event(self, key: Key, kind: str, reason: str, message: str, *, by_scheduler: bool = False) -> None:
        """Write an event about an object, as kubelets and controllers do, or with the scheduler's other times."""
        at, fine = timestamp(self.store.agenda.at), timestamp(self.store.agenda.at, fine=True)[:-4] + "Z"
        names = {"namespace": key.namespace, "name": key.name, "uid": self.store.objects[key]["metadata"]["uid"]}
        about = {"kind": self.store.objects[key].get("kind", "Pod"), "apiVersion": key.group, **names}
        says = {"type": kind, "reason": reason, "message": message, "involvedObject": about}
        if by_scheduler and (before := self._said(says)):
            before["series"] = {"count": (before.get("series") or {}).get("count", 1) + 1, "lastObservedTime": fine}
            return
        times: Object = {"firstTimestamp": at, "lastTimestamp": at, "eventTime": None, "count": 1}
        if by_scheduler:
            times = {"firstTimestamp": None, "lastTimestamp": None, "eventTime": fine, "action": "Scheduling"}
        self.store.create(
            Key("v1", "events", key.namespace, f"{key.name}.{self.store.version:x}"),
            {"apiVersion": "v1", "kind": "Event", "metadata": {}, **says, **times},
        )

    def _said(self, says: Object) -> Object | None:
        """Return an event that says the same already."""
        events = (found for key, found in self.store.objects.items() if key.kind == "events")
        return next((found for found in events if says.items() <= found.items()), None)

    def condition(self, key: Key, kind: str, status: str, reason: str = "", message: str = "") -> None:
        """Set a condition of a pod."""
        conditions = self.store.objects[key]["status"].setdefault("conditions", [])
        conditions[:] = [each for each in conditions if each["type"] != kind]
        since = timestamp(self.store.agenda.at)
        says = {name: text for name, text in (("reason", reason), ("message", message)) if text}
        conditions.append({"type": kind, "status": status, "lastTransitionTime": since, **says})

    def delete(self, key: Key, grace_s: float | None = None) -> None:
        """Delete a pod: SIGTERM, grace, SIGKILL, gone."""
        pod = self.store.get(key)
        spec, phase = pod["spec"], pod["status"]["phase"]
        grace_s = spec.get("terminationGracePeriodSeconds", 30) if grace_s is None else grace_s
        node = self.nodes.get(spec.get("nodeName", ""))
        if grace_s == 0 or phase in ENDED or node is None:
            self._kill(pod)
            pod["metadata"].setdefault("deletionTimestamp", timestamp(self.store.agenda.at))
            self.store.remove(key)
            return
        first = "deletionTimestamp" not in pod["metadata"]
        self.store.mark_deleted(key, grace_s)
        if node.ready:
            self.stop(key, grace_s, first=first)

    def fail(self, key: Key, reason: str, message: str) -> None:
        """End a pod as failed, as its kubelet does when it evicts it or its deadline is over."""
        pod = self.store.objects[key]
        if pod["status"]["phase"] in ENDED:
            return
        pod["status"].update(reason=reason, message=message)
        if any(process.exit_code is None for process in self.processes[pod["metadata"]["uid"]].values()):
            self.store.changed(key)
            self.stop(key, pod["spec"].get("terminationGracePeriodSeconds", 30), first=True)
        else:
            self._ended(key)

    def later(self, delay_s: float, key: Key, uid: str, do: Any) -> None:
        """Do something with a pod later, if it is still there and has not ended."""

        def when_due() -> None:
            pod = self.store.objects.get(key)
            if pod is not None and pod["metadata"]["uid"] == uid and pod["status"]["phase"] not in ENDED:
                do(key)

        self.store.agenda.after(delay_s, when_due)

    def schedule(self, key: Key) -> None:
        """Find a node for a pod, or say why there is none and try again."""
        pod = self.store.objects[key]
        if "nodeName" in pod["spec"] or "deletionTimestamp" in pod["metadata"] or pod["spec"].get("schedulingGates"):
            return
        used: dict[str, Counter[str]] = defaultdict(Counter)
        for _, other in self._all_placed():
            used[other["spec"]["nodeName"]] += wanted(other["spec"])
        node = choose_node(pod["spec"], self.nodes.values(), used)
        if isinstance(node, str):
            self.condition(key, "PodScheduled", "False", "Unschedulable", node)
            self.store.changed(key)
            self.event(key, "Warning", "FailedScheduling", node, by_scheduler=True)
            self.later(_RESCHEDULE_S, key, pod["metadata"]["uid"], self.schedule)
            return
        pod["spec"]["nodeName"] = node.name
        pod["status"]["startTime"] = timestamp(self.store.agenda.at)
        self.condition(key, "PodScheduled", "True")
        self._contain(key, lambda _name: {"waiting": {"reason": "ContainerCreating"}})
        placed = f"Successfully assigned {key.namespace}/{key.name} to {node.name}"
        self.event(key, "Normal", "Scheduled", placed, by_scheduler=True)
        self.later(self.pull_s, key, pod["metadata"]["uid"], self._start)

    def _all_placed(self) -> list[tuple[Key, Object]]:
        return [
            (key, pod)
            for key, pod in self.store.objects.items()
            if key.kind == PODS and "nodeName" in pod["spec"] and pod["status"]["phase"] not in ENDED
        ]

    def _start(self, key: Key) -> None:
        pod = self.store.objects[key]
        images = {container["image"] for container in pod["spec"]["containers"]}
        missing = sorted(images & self.missing_images)
        if not self.nodes[pod["spec"]["nodeName"]].ready or "deletionTimestamp" in pod["metadata"]:
            return
        if missing:
            says = f'Failed to pull image "{missing[0]}": rpc error: code = NotFound desc = not found'
            before = (pod["status"].get("containerStatuses") or [{}])[0].get("state", {}).get("waiting", {})
            reason = "ImagePullBackOff" if before.get("reason") == "ErrImagePull" else "ErrImagePull"
            self._contain(key, lambda _name: {"waiting": {"reason": reason, "message": says}})
            self.event(key, "Warning", "Failed", says)
            self.later(_BACK_OFF_S, key, pod["metadata"]["uid"], self._start)
            return
        self._run(key, pod)

    def _run(self, key: Key, pod: Object) -> None:
        processes = self.processes[pod["metadata"]["uid"]]
        for container in pod["spec"]["containers"]:
            processes[container["name"]] = Process(
                agenda=self.store.agenda, steps=self.program(pod, container), exited=self.exit_of(key)
            )
        pod["status"].update(phase="Running", podIP="10.0.0.7", hostIP="10.0.0.1")
        self.condition(key, "Ready", "True")
        since = timestamp(self.store.agenda.at)
        self._contain(key, lambda _name: {"running": {"startedAt": since}})
        self.event(key, "Normal", "Started", "Started container")
        deadline_s = pod["spec"].get("activeDeadlineSeconds")
        if deadline_s is not None:
            says = "Pod was active on the node longer than the specified deadline"
            self.later(deadline_s, key, pod["metadata"]["uid"], lambda at: self.fail(at, "DeadlineExceeded", says))
        for process in list(processes.values()):
            process.go_on()

    def exit_of(self, key: Key) -> Callable[[int], None]:
        """Return what hears that a process of a pod has ended."""
        return lambda _code: self.exited(key)

    def exited(self, key: Key) -> None:
        """Look at a pod of which a process may have ended."""
        pod = self.store.objects.get(key)
        if pod is None or pod["status"]["phase"] in ENDED:
            return
        processes = self.processes[pod["metadata"]["uid"]]
        if all(process.exit_code is not None for process in processes.values()):
            self._ended(key)
        else:
            self._contain(key, lambda name: self._state(pod, name))

    def _ended(self, key: Key) -> None:
        pod = self.store.objects[key]
        codes = [process.exit_code for process in self.processes[pod["metadata"]["uid"]].values()]
        good = bool(codes) and not any(codes) and "reason" not in pod["status"]
        pod["status"]["phase"] = "Succeeded" if good else "Failed"
        self.condition(key, "Ready", "False", "PodCompleted" if good else "PodFailed")
        self._contain(key, lambda name: self._state(pod, name))
        gone_s = _REMOVAL_S if "deletionTimestamp" in pod["metadata"] else self.collect_ended_s
        if gone_s is not None:
            uid = pod["metadata"]["uid"]
            self.store.agenda.after(gone_s, lambda: self._gone(key, uid))

    def _gone(self, key: Key, uid: str) -> None:
        if key in self.store.objects and self.store.objects[key]["metadata"]["uid"] == uid:
            self.store.remove(key)

    def _state(self, pod: Object, name: str) -> Object:
        process = self.processes[pod["metadata"]["uid"]].get(name)
        if process is None:
            return {"waiting": {"reason": "ContainerCreating"}}
        since = pod["status"].get("startTime")
        if process.exit_code is None:
            return {"running": {"startedAt": since}}
        times = {"startedAt": since, "finishedAt": timestamp(self.store.agenda.at)}
        told = getattr(process.exit_code, "message", "")
        said = {"message": told} if told else {}
        return {"terminated": {"exitCode": int(process.exit_code), "reason": process.reason, **said, **times}}

    def _contain(self, key: Key, state: Any) -> None:
        """Write the state of each container."""
        pod = self.store.objects[key]
        pod["status"]["containerStatuses"] = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "restartCount": 0,
                "ready": "running" in (now := state(container["name"])),
                "state": now,
            }
            for container in pod["spec"]["containers"]
        ]
        self.store.changed(key)

    def stop(self, key: Key, grace_s: float, *, first: bool) -> None:
        """End a pod's processes: SIGTERM the first time, SIGKILL when the grace is over."""
        pod = self.store.objects[key]
        processes = self.processes[pod["metadata"]["uid"]]
        if not processes:
            self._ended(key)
            return
        self.later(grace_s, key, pod["metadata"]["uid"], lambda at: self._kill(self.store.objects[at]))
        if first:
            for process in list(processes.values()):
                process.go_on(terminate=True)

    def _kill(self, pod: Object, reason: str = "Error") -> None:
        for process in list(self.processes[pod["metadata"]["uid"]].values()):
            process.kill(reason)


def ended_at(pod: Object) -> float | None:
    """Return when a pod's last container ended, if it has."""
    states = [each["state"] for each in pod["status"].get("containerStatuses", ())]
    ends = [seconds(state["terminated"]["finishedAt"]) for state in states if "terminated" in state]
    return max(ends) if ends and pod["status"]["phase"] in ENDED else None
