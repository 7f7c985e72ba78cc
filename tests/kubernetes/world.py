"""One cluster, one Airflow and one training, in simulated time: what a fault sequence happens to."""

from __future__ import annotations

import json
import logging
import os
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
from tests.kubernetes.clock import SteppedClock
from tests.kubernetes.nodes import GPU, GPU_TAINT, Node
from tests.kubernetes.orchestration import Airflow, MortalSupervisor
from tests.kubernetes.pods import ENDED, PODS
from tests.kubernetes.server import ScriptedKubernetes
from tests.kubernetes.simulation import Simulation
from tests.kubernetes.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from airflow.sdk import BaseOperator

    from include.training.job import Job
    from tests.kubernetes.store import Change

MODEL = "flight_delays"
COMMIT = "commit-of-the-tests"
START = 1_750_000_000.0
_SETTLE_S = 180.0
"""After the task has ended, longer than any grace: a pod that still lives then is nobody's."""


@dataclass(kw_only=True)
class World:
    """A training of a job that is written already, by an operator of the caller's.

    Attributes:
        folder: Where the lake is.
        make_operator: Makes the operator for a job.
        snapshot: The job's rows; None: a name for rows that nobody reads.
        params: The job's parameters.
        num_duplicates: How often a second live pod of the job came to be beside the first.
        num_armed: Kills and disruptions that wait for their moment.
    """

    folder: Path
    make_operator: Callable[[Job], BaseOperator]
    snapshot: SnapshotRef | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    num_duplicates: int = 0
    num_armed: int = 0

    def __post_init__(self) -> None:
        """Put it together; nothing runs yet."""
        self._stack = ExitStack()
        clock = SteppedClock(START)
        self.kubernetes = ScriptedKubernetes(clock=clock)
        self.cluster = self.kubernetes.cluster
        self.kubelets = self.cluster.kubelets
        self.simulation = Simulation(self.cluster, clock)
        self.storage = Storage(root=str(self.folder))
        self.job = self._write_job()
        self.trainer = Trainer(storage=self.storage, agenda=self.cluster.store.agenda)
        self.kubelets.program = self.trainer
        self._live: set[str] = set()
        self._replace_nodes()
        self.cluster.store.observers.append(self._watch_pods)
        self.airflow = Airflow(
            simulation=self.simulation,
            supervisor=MortalSupervisor(),
            make_task=lambda: self.make_operator(self.job),
        )

    def __enter__(self) -> Self:
        """Start the API server and take the place of time."""
        self._stack.enter_context(self.kubernetes)
        lake = {"conn_type": "fs", "extra": json.dumps({"path": str(self.folder)})}
        connections = {"tradewind_lake": lake, "kubernetes_default": self.kubernetes.connection}
        self.airflow.supervisor.connections.update(connections)
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

    def run(self) -> str:
        """Run the task to its end, let all settle, and return its state."""
        state = self.airflow.run()
        self.simulation.advance(_SETTLE_S)
        return state

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
        """Give the cluster two nodes with GPUs, so that one may be lost."""
        self.cluster.nodes.remove("gpu-0")
        room = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", GPU: "8"}
        for name in ("gpu-0", "gpu-1"):
            labels = {"nvidia.com/gpu.product": "NVIDIA-H200", "nvidia.com/gpu.present": "true"}
            self.cluster.nodes.add(Node(name=name, room=room, labels=labels, taints=[dict(GPU_TAINT)]))

    def _watch_pods(self, change: Change) -> None:
        """Count each time that there is more than one live pod."""
        if change.key.kind != PODS:
            return
        uid, pod = change.object["metadata"]["uid"], change.object
        live = pod["status"]["phase"] not in ENDED if "status" in pod else True
        if live and change.type != "DELETED" and "deletionTimestamp" not in pod["metadata"]:
            self.num_duplicates += uid not in self._live and bool(self._live)
            self._live.add(uid)
        else:
            self._live.discard(uid)


def snapshot_of(job: Job) -> dict[str, object]:
    """Return a job's snapshot as the task before the training returns it."""
    return job.snapshot.model_dump(mode="json")
