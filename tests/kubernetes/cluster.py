"""A scripted cluster without its HTTP: objects, pods that live, controllers, and what befalls them."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.kubernetes.clock import Agenda, FastClock, SteppedClock
from tests.kubernetes.node_life import NodeController
from tests.kubernetes.pods import ENDED, PODS, Kubelets
from tests.kubernetes.store import ApiError, Key, Object, Store, merge

if TYPE_CHECKING:
    from tests.kubernetes.clock import Clock
    from tests.kubernetes.containers import Process
    from tests.kubernetes.faults import Fault
    from tests.kubernetes.store import Change

FOREGROUND = "foregroundDeletion"
"""Finalizer of an owner that waits until what blocks it is gone."""
_COLLECT_S = 0.1
Controller = Callable[[Object], Generator[float | Object, None, None]]
"""What happens to a new custom object: yields seconds to wait and patches of it."""


@dataclass(kw_only=True)
class LogStream:
    """A log that is followed.

    Attributes:
        process: What prints it.
        is_heard: Whether the kubelet that sends it answers.
        num_sent: Lines that were sent.
        is_done: Whether the stream has ended.
    """

    process: Process
    is_heard: Callable[[], bool]
    num_sent: int = 0
    is_done: bool = False

    @property
    def is_behind(self) -> bool:
        """Whether there is something to send: lines, or that there will be no more."""
        has_more = self.num_sent < len(self.process.log) or self.process.exit_code is not None
        return not self.is_done and has_more and self.is_heard()


@dataclass(kw_only=True)
class Cluster:
    """All that the API shows, and all that happens behind it.

    Attributes:
        clock: Its time.
        faults: What goes wrong with calls, tried in order.
        calls: Method and path of each call, in order.
        token: Who calls without it is nobody; empty: everybody may call.
        controllers: By the plural of the kind.
        quota: Called with each new pod; a text is the reason why it is refused.
        streams: Logs that somebody follows.
        is_polled: Whether somebody does other things while a stream is open.
    """

    clock: Clock = field(default_factory=FastClock)
    faults: list[Fault] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    token: str = ""
    controllers: dict[str, Controller] = field(default_factory=dict)
    quota: Callable[[Object], str | None] = lambda _pod: None
    streams: list[LogStream] = field(default_factory=list)
    is_polled: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)
    store: Store = field(init=False)
    kubelets: Kubelets = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nodes and nothing else."""
        from tests.kubernetes.jobs import JobController

        self.store = Store(agenda=Agenda(clock=self.clock))
        self.kubelets = Kubelets(store=self.store)
        self.jobs = JobController(self)
        self.store.observers += [self.jobs.on_change, self._collect]
        self.nodes = NodeController(kubelets=self.kubelets)

    @property
    def pods(self) -> list[Object]:
        """Return all pods."""
        with self.lock:
            self.advance()
            return self.store.select(Key("v1", PODS, "", ""))

    @property
    def live_pods(self) -> list[Object]:
        """Return the pods that have not ended and that nobody has deleted."""
        return [
            pod
            for pod in self.pods
            if pod["status"]["phase"] not in ENDED and "deletionTimestamp" not in pod["metadata"]
        ]

    @property
    def is_sending(self) -> bool:
        """Whether a follower has not been sent all that was printed."""
        with self.lock:
            self.streams = [stream for stream in self.streams if not stream.is_done]
            return any(stream.is_behind for stream in self.streams)

    def is_heard(self, node: str) -> bool:
        """Return whether a node's kubelet answers."""
        found = self.kubelets.nodes.get(node)
        return found is not None and found.ready

    def advance(self) -> bool:
        """Let happen what is due."""
        with self.lock:
            return self.store.agenda.run()

    async def pause(self, real_s: float, *, blocking: bool = False) -> None:
        """Let an open stream wait; a `blocking` one has a reader who does nothing else meanwhile."""
        if self.is_polled or not (blocking and self.let_pass()):
            await asyncio.sleep(real_s)
        self.advance()

    def let_pass(self) -> bool:
        """Move a clock that stands still on to the next thing that is due; return whether it was moved."""
        with self.lock:
            if not isinstance(self.clock, SteppedClock) or self.store.agenda.next_at is None:
                return False
            self.clock.at = max(self.clock.at, self.store.agenda.next_at)
            return True

    def create(self, key: Key, body: Object) -> Object:
        """Create an object as the API server does, with what its controllers then do."""
        meta = body.setdefault("metadata", {})
        name = meta.get("name") or f"{meta.get('generateName', '')}{uuid.uuid4().hex[:5]}"
        key = key._replace(name=name, namespace=key.namespace)
        if key.kind == PODS and (refusal := self.quota(body)):
            raise ApiError(403, "Forbidden", f'pods "{name}" is forbidden: {refusal}')
        created = self.store.create(key, body)
        if key.kind == PODS:
            self.kubelets.created(key)
        elif key.kind in self.controllers:
            self._control(key, self.controllers[key.kind](body))
        return self.store.objects.get(key, created)

    def patch(self, key: Key, body: Any) -> Object:
        """Patch an object; an applied one may be new."""
        if key not in self.store.objects and isinstance(body, dict) and "kind" in body and "apiVersion" in body:
            return self.create(key, body)
        return self.store.patch(key, body)

    def delete(self, key: Key, options: Object) -> Object:
        """Delete an object and, unless told to orphan them, what it owns."""
        found = self.store.get(key)
        uid = (options.get("preconditions") or {}).get("uid")
        if uid not in (None, found["metadata"]["uid"]):
            raise ApiError(409, "Conflict", "the UID in the precondition does not match the UID in record")
        grace = options.get("gracePeriodSeconds")
        if key.kind == PODS:
            self.kubelets.delete(key, None if grace is None else float(grace))
            return found
        policy = options.get("propagationPolicy")
        waits = policy == "Foreground" and bool(self.store.blocking(found["metadata"]["uid"]))
        kept = [name for name in found["metadata"].get("finalizers", ()) if name != FOREGROUND]
        found["metadata"]["finalizers"] = [*kept, FOREGROUND] if waits else kept
        self.store.mark_deleted(key, 0)
        if policy != "Orphan":
            for each in self.store.owned(found["metadata"]["uid"]):
                self.delete(each, {"propagationPolicy": policy})
        self.store.release(key)
        return found

    def _collect(self, change: Change) -> None:
        """Let an owner go that was deleted in the foreground, when the last of what blocks it has gone."""
        if change.type == "DELETED":
            for owner in change.object["metadata"].get("ownerReferences", ()):
                self.store.agenda.after(_COLLECT_S, lambda uid=owner["uid"]: self._let_go(uid))

    def _let_go(self, uid: str) -> None:
        for key, found in list(self.store.objects.items()):
            meta = found["metadata"]
            if meta["uid"] == uid and FOREGROUND in meta.get("finalizers", ()) and not self.store.blocking(uid):
                meta["finalizers"].remove(FOREGROUND)
                self.store.release(key)

    def log_of(self, pod: Object, container: str) -> Process:
        """Return the process whose lines are a container's log.

        Raises:
            ApiError: 400, it has not started; 500, its node is not heard of.
        """
        process = self.kubelets.processes[pod["metadata"]["uid"]].get(container)
        if process is None:
            says = f'container "{container}" in pod "{pod["metadata"]["name"]}" is waiting to start: ContainerCreating'
            raise ApiError(400, "BadRequest", says)
        if not self.is_heard(pod["spec"]["nodeName"]):
            raise ApiError(500, "InternalError", 'Get "https://10.0.0.1:10250/containerLogs": dial tcp: i/o timeout')
        return process

    def evict(self, name: str, namespace: str | None = None) -> None:
        """Evict a pod, as a drained node does."""
        self._disrupt(name, namespace, "EvictionByEvictionAPI", "Eviction API: evicting")

    def preempt(self, name: str, namespace: str | None = None) -> None:
        """Make room for a pod of a higher priority."""
        key = self._disrupt(name, namespace, "PreemptionByScheduler", "default-scheduler: preempting")
        if key in self.store.objects:
            says = "Preempted by pod 1b8d in namespace urgent on node gpu-0"
            self.kubelets.event(key, "Normal", "Preempted", says, by_scheduler=True)

    def _disrupt(self, name: str, namespace: str | None, reason: str, message: str) -> Key:
        with self.lock:
            self.advance()
            key = self.kubelets.find(name, namespace)
            if self.store.objects[key]["status"]["phase"] not in ENDED:
                self.kubelets.condition(key, "DisruptionTarget", "True", reason, message)
                self.store.changed(key)
            self.kubelets.delete(key)
            return key

    def press(self, name: str) -> None:
        """Let a kubelet evict a pod since its node runs low: the object stays, as failed."""
        with self.lock:
            self.advance()
            key = self.kubelets.find(name)
            says = "The node was low on resource: ephemeral-storage."
            self.kubelets.condition(key, "DisruptionTarget", "True", "TerminationByKubelet", says)
            self.kubelets.event(key, "Warning", "Evicted", says)
            self.kubelets.fail(key, "Evicted", says)

    def out_of_memory(self, name: str) -> None:
        """Let the kernel kill a pod's containers."""
        with self.lock:
            self.advance()
            pod = self.store.objects[self.kubelets.find(name)]
            for process in list(self.kubelets.processes[pod["metadata"]["uid"]].values()):
                process.kill("OOMKilled")

    def remove(self, name: str) -> None:
        """Take a pod's object away at once, as a forced delete or a garbage collector does."""
        with self.lock:
            self.advance()
            self.kubelets.delete(self.kubelets.find(name), 0)

    def _control(self, key: Key, steps: Generator[float | Object, None, None]) -> None:
        """Go on with a custom object's controller."""
        if key not in self.store.objects:
            return
        for step in steps:
            if isinstance(step, dict):
                merge(self.store.objects[key], step)
                self.store.changed(key)
            else:
                self.store.agenda.after(step, lambda: self._control(key, steps))
                return
