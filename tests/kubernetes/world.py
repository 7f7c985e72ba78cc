"""One cluster, one Airflow and one training, in simulated time: what a fault sequence happens to."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import structlog
from airflow.sdk.execution_time.supervisor import set_supervisor_comms

from include.lake.storage import Storage
from include.spec import load_spec
from include.testing.process import borrowed_process
from include.training.commit import VARIABLE
from include.training.job import SnapshotRef, make_job
from include.training.result import read_result
from include.training.sweep import has_ended
from tests.kubernetes.clock import SteppedClock
from tests.kubernetes.gang import Place
from tests.kubernetes.janitor import Janitor
from tests.kubernetes.jobs import INDEX, JOBS
from tests.kubernetes.nodes import GPU, GPU_TAINT, Node
from tests.kubernetes.orchestration import Airflow, MortalSupervisor
from tests.kubernetes.pods import ENDED, PODS
from tests.kubernetes.server import ScriptedKubernetes
from tests.kubernetes.simulation import Simulation
from tests.kubernetes.store import Key
from tests.kubernetes.train_jobs import TRAIN_JOBS, train_job_controller
from tests.kubernetes.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

    from airflow.sdk import BaseOperator

    from include.training.job import Job
    from tests.fake_airflow import FakeAirflow
    from tests.kubernetes.store import Change, Object

MODEL = "flight_delays"
COMMIT = "commit-of-the-tests"
START = 1_750_000_000.0
_SETTLE_S = 180.0
"""After the task has ended, longer than any grace: a pod that still lives then is nobody's."""
_FOR_NOBODY_S = 86_400.0
"""For so long goes on what nobody ends: none is taken for ended since its work was short."""


@dataclass(kw_only=True)
class World:
    """A training of a job that is written already, by an operator of the caller's.

    Attributes:
        folder: Where the lake is.
        make_operator: Makes the operator for a job.
        snapshot: The job's rows; None: a name for rows that nobody reads.
        params: The job's parameters.
        airflow_api: Airflow's REST API, where the janitor asks; None: no janitor comes.
        start_at: Seconds since 1970 at the beginning.
        gpus: Of each node that has any.
        num_duplicates: How often a second live pod of the job came to be beside the first, which may be told to end.
        num_armed: Kills and disruptions that wait for their moment.
        num_left: Live pods that were left three minutes after the task had ended, for the janitor.
        busy_s: Seconds that trainers had run by then, all together.
        lines: What trainers had printed when the task ended.
    """

    folder: Path
    make_operator: Callable[[Job], BaseOperator]
    snapshot: SnapshotRef | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    airflow_api: FakeAirflow | None = None
    start_at: float = START
    gpus: tuple[int, ...] = (8, 8)
    num_duplicates: int = 0
    num_armed: int = 0
    num_left: int = 0
    busy_s: float = 0.0
    lines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Put it together; nothing runs yet."""
        self._stack = ExitStack()
        clock = SteppedClock(self.start_at)
        self.kubernetes = ScriptedKubernetes(clock=clock)
        self.cluster = self.kubernetes.cluster
        self.kubelets = self.cluster.kubelets
        self.simulation = Simulation(self.cluster, clock)
        self.storage = Storage(root=str(self.folder))
        self.job = self._write_job()
        self.trainer = Trainer(storage=self.storage, agenda=self.cluster.store.agenda)
        self.trainer.place_of, self.trainer.is_heard = self._place_of, self._is_heard
        self.kubelets.program = self.trainer
        self.cluster.controllers[TRAIN_JOBS] = train_job_controller(self.cluster)
        self._live: dict[str, set[str]] = defaultdict(set)
        self._replace_nodes()
        self.cluster.store.observers.append(self._watch_pods)
        self.airflow = Airflow(
            simulation=self.simulation,
            supervisor=MortalSupervisor(),
            make_task=lambda: self.make_operator(self.job),
        )
        self.janitor = Janitor(simulation=self.simulation, airflow=self.airflow, api=self.airflow_api)

    def __enter__(self) -> Self:
        """Start the API server and take the place of time."""
        self._stack.enter_context(self.kubernetes)
        lake = {"conn_type": "fs", "extra": json.dumps({"path": str(self.folder)})}
        connections = {"tradewind_lake": lake, "kubernetes_default": self.kubernetes.connection}
        self.airflow.supervisor.connections.update(connections)
        self.janitor.begin(connections)
        formatters: list[Any] = [structlog.stdlib.PositionalArgumentsFormatter(), structlog.processors.format_exc_info]
        self._stack.enter_context(borrowed_process())
        os.environ[VARIABLE] = COMMIT
        self._events = self._stack.enter_context(structlog.testing.capture_logs(formatters))
        logging.disable(logging.CRITICAL)  # of libraries; what the task logs goes the other way
        self._stack.callback(logging.disable, logging.NOTSET)
        self._stack.enter_context(set_supervisor_comms(self.airflow.supervisor))
        self._stack.enter_context(self.simulation.running())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it all."""
        self._stack.__exit__(kind, error, trace)

    def also(self, change: AbstractContextManager[object]) -> None:
        """Keep a change of this process until the end."""
        self._stack.enter_context(change)

    def run(self) -> str:
        """Run the task to its end, let all settle and the janitor come once more, and return the task's state."""
        state = self.airflow.run()
        self.lines = tuple(self.trainer.lines)
        self.trainer.work_s += _FOR_NOBODY_S
        self.simulation.advance(_SETTLE_S)
        self.num_left, self.busy_s = self.num_live, self.trainer.busy_s
        if self.num_left and self.airflow_api is not None:
            self.simulation.advance(self.janitor.next_in_s)
            self.simulation.advance(_SETTLE_S)
        self.trainer.work_s -= _FOR_NOBODY_S
        return state

    @property
    def num_live(self) -> int:
        """How many pods live; work that will have some counts as one."""
        works = [found for key, found in self.cluster.store.objects.items() if key.kind in (JOBS, TRAIN_JOBS)]
        return len(self.cluster.live_pods) or sum(not has_ended(work) for work in works)

    @property
    def has_result(self) -> bool:
        """Whether a whole result of the job is there."""
        return read_result(self.job, storage=self.storage) is not None

    @property
    def events(self) -> list[str]:
        """Return what was logged, one line an event."""
        return [f"{event['log_level']}: {event['event']}" for event in self._events]

    def _write_job(self) -> Job:
        unread = SnapshotRef(uri=str(self.folder), sha256="0" * 64, partitions=("2013-03",), num_rows=1000)
        return make_job(
            spec=load_spec(MODEL),
            snapshot=self.snapshot or unread,
            commit=COMMIT,
            storage=self.storage,
            params=self.params,
        )

    def _replace_nodes(self) -> None:
        """Give the cluster several nodes with GPUs, so that one may be lost."""
        self.cluster.nodes.remove("gpu-0")
        for number, num_gpus in enumerate(self.gpus):
            name = f"gpu-{number}"
            room = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", GPU: str(num_gpus)}
            labels = {"nvidia.com/gpu.product": "NVIDIA-H200", "nvidia.com/gpu.present": "true"}
            self.cluster.nodes.add(Node(name=name, room=room, labels=labels, taints=[dict(GPU_TAINT)]))

    def _watch_pods(self, change: Change) -> None:
        """Count each time that there is more than one live pod for the same part of the training."""
        if change.key.kind != PODS:
            return
        uid, pod = change.object["metadata"]["uid"], change.object
        others = self._live[(pod["metadata"].get("annotations") or {}).get(INDEX, "")]
        live = pod["status"]["phase"] not in ENDED if "status" in pod else True
        if live and change.type != "DELETED":
            self.num_duplicates += uid not in others and bool(others)
            others.add(uid)
        else:
            others.discard(uid)

    def _place_of(self, pod: Object) -> Place:
        """Return which process of its Job a pod is, if it is one of a Job."""
        meta, store = pod["metadata"], self.cluster.store
        index = (meta.get("annotations") or {}).get(INDEX)
        if index is None:
            return Place(gang=meta["uid"])
        (owner,) = meta["ownerReferences"]
        job = store.get(Key("batch/v1", JOBS, meta["namespace"], owner["name"]))
        return Place(gang=owner["uid"], rank=int(index), size=job["spec"]["completions"])

    def _is_heard(self, name: str) -> bool:
        """Return whether the node of a pod is connected; nobody knows of a pod that is there no more."""
        for key, pod in self.cluster.store.objects.items():
            if key.kind == PODS and key.name == name:
                node = self.kubelets.nodes.get(pod["spec"].get("nodeName", ""))
                return node is not None and node.ready
        return True


def snapshot_of(job: Job) -> dict[str, object]:
    """Return a job's snapshot as the task before the training returns it."""
    return job.snapshot.model_dump(mode="json")
