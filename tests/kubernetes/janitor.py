"""The Dag `sweep` beside a training in simulated time: its operator passes at ten past each hour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.sdk.execution_time.supervisor import set_supervisor_comms

from include.errors import TradewindError
from include.testing.supervisor import FakeSupervisor
from operators.sweep_training import SweepTrainingOperator
from tests.fake_airflow import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.fake_airflow import FakeAirflow
    from tests.kubernetes.orchestration import Airflow
    from tests.kubernetes.simulation import Simulation

HOUR_S = 3600.0
MINUTE_S = 600.0
"""`dags/sweep.py`: 10 * * * *."""
_RETRY_S = 2.0
_NUM_RETRIES = 5


@dataclass(kw_only=True)
class Janitor:
    """Comes once an hour, and again soon after a pass that failed, as the Dag's retries have it.

    Attributes:
        simulation: Time.
        airflow: Whose task instance it asks for.
        api: Airflow's REST API, over HTTP; None: no janitor comes.
        num_passes: That came to their end.
        deleted: Paths of what it took for orphans.
    """

    simulation: Simulation
    airflow: Airflow
    api: FakeAirflow | None
    num_passes: int = 0
    deleted: list[str] = field(default_factory=list)
    _supervisor: FakeSupervisor = field(default_factory=FakeSupervisor)
    _next_at: float = 0.0
    _num_failed: int = 0
    _is_at_work: bool = False

    def begin(self, connections: Mapping[str, dict[str, Any]]) -> None:
        """Come from now on, by connections like the task's."""
        if self.api is None:
            return
        port = int(self.api.base_url.rpartition(":")[2])
        api = {"conn_type": "http", "host": "127.0.0.1", "port": port, "login": "reconciler", "password": PASSWORD}
        self._supervisor.connections = {**connections, "airflow_api_default": api}
        self._plan(MINUTE_S)
        self.simulation.passed = self._look_at_the_clock

    @property
    def next_in_s(self) -> float:
        """Seconds until it comes."""
        return max(0.0, self._next_at - self.simulation.clock.at)

    def _plan(self, minute_s: float) -> None:
        now = self.simulation.clock.at
        self._next_at = now + (minute_s - now) % HOUR_S or HOUR_S

    def _look_at_the_clock(self) -> None:
        if self._is_at_work or self.simulation.clock.at < self._next_at:
            return
        self._is_at_work, boundary = True, self.simulation.boundary
        self.simulation.boundary = lambda: None
        try:
            self._pass()
        finally:
            self._is_at_work, self.simulation.boundary = False, boundary

    def _pass(self) -> None:
        assert self.api is not None
        state = self.airflow.state
        self.api.tasks.clear()
        if state != "deleted":
            self.api.tasks[self.airflow.run_id] = [{"task_id": "train", "state": state}]
        try:
            with set_supervisor_comms(self._supervisor):
                swept = SweepTrainingOperator(task_id="sweep").execute({})
        except TradewindError:
            self._num_failed += 1
            if self._num_failed <= _NUM_RETRIES:
                self._next_at = self.simulation.clock.at + _RETRY_S
                return
        else:
            self.num_passes += 1
            self.deleted += swept["orphan"]
        self._num_failed = 0
        self._plan(MINUTE_S)
