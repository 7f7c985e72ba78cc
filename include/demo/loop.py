"""The loop that the demo runs: months land, Airflow does the rest, callers ask the model server meanwhile."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from include import partitions
from include.demo.flights import MODEL, land_month
from include.demo.traffic import COMPARED_REQUESTS_PER_S, HELD_REQUESTS_PER_S, IDLE_REQUESTS_PER_S, Traffic
from include.errors import ServiceError
from include.rollout.decision import decide_stage
from include.rollout.history import champion_of
from include.rollout.ledger import Ledger
from include.rollout.local import read_state
from include.rollout.planning import plan_rollout
from include.runtime.airflow_api import AirflowApi
from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from include.rollout.decision import Stage
    from include.runtime.services import Deployment
    from include.spec import ModelSpec, RolloutSpec

_POLL_S = 0.25
_RESERVE = 2.0
"""Requests that are kept for a comparison, as a multiple of what the plan of the rollout says it needs.

As many again are for whoever serves after it: on a slow machine it would else be measured on a few days of the month.
"""
_FAILED = ["failed"]


@dataclass(kw_only=True)
class Loop:
    """Drives the months of one model through a running deployment.

    Args:
        deployment: A deployment that `up` started, with an empty lake.
        months: Partition keys, in order.
        say: Told what is happening, several times a second.
        tell: Told what has happened, once.
        max_flights: Land and ask for only so many flights a month; None for all.
        month_timeout_s: Longest time between two events of a month.
        outage_s: For how long servers may be away.
    """

    deployment: Deployment
    months: tuple[str, ...]
    say: Callable[[str], None]
    tell: Callable[[str], None] = field(default=lambda _: None)
    max_flights: int | None = None
    month_timeout_s: float = 240.0
    outage_s: float = 0.0
    traffic: dict[str, Traffic] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds of each month, landing to closed and answered."""

    def run(self) -> None:
        """Run the months; each lands when the one before is closed.

        Raises:
            ServiceError: A Dag run failed, a month was not closed in time, or a caller got no prediction.
        """
        for month in self.months:
            started = time.monotonic()
            self._run_month(month)
            self.seconds[month] = time.monotonic() - started
            self.tell(f"{month} closed after {self.seconds[month]:.0f} s: {self._decision(month)}")

    def score(self, *, month: str, version: str) -> None:
        """Score one month with a version through `score_*`."""
        self.say(f"{month}: scoring with v{version}")
        body = {"logical_date": None, "conf": {"partitions": [month], "version": version}}
        run = self.api.post(f"dags/score_{MODEL}/dagRuns", body)
        self._wait_for_run(f"score_{MODEL}", run["dag_run_id"])

    def events(self, asset: str) -> list[dict[str, Any]]:
        """Return the events of one of the model's assets, oldest first."""
        return self.api.asset_events(f"{MODEL}.{asset}")

    @cached_property
    def api(self) -> AirflowApi:
        """The deployment's Airflow."""
        secrets = self.deployment.secrets
        return AirflowApi(base_url=self.deployment.airflow_url, password=secrets.admin_password, outage_s=self.outage_s)

    @property
    def _spec(self) -> ModelSpec:
        return load_spec(MODEL)

    def _run_month(self, month: str) -> None:
        self.say(f"{month}: landing")
        land_month(storage=self.deployment.home.storage, partition=month, max_flights=self.max_flights)
        self._wait_for_event("features", month)
        following = partitions.shift(month, 1)
        has_following = following in self.months
        # Callers of the next month ask while this month is decided on: that is the traffic that a canary sees.
        if has_following and self.champion():
            self._start_traffic(following)
        self._wait_for_event("closed", month)
        if not has_following or not self.champion():
            return
        if following not in self.traffic:
            self._start_traffic(following)
        traffic = self.traffic[following]
        traffic.requests_per_s = math.inf
        self.say(f"{following}: callers ask the model server")
        traffic.wait()

    def _decision(self, month: str) -> str:
        """Return what was decided on a month, and who serves since."""
        ledger = Ledger(path=self.deployment.home.ledger)
        decided = ledger.newest(MODEL, "retrain_decision", subject=month)
        champion = champion_of(ledger, MODEL)
        verdict = decided.evidence["verdict"] if decided else "nothing decided"
        return f"{verdict}; {f'v{champion} serves' if champion else 'nothing serves yet'}"

    def _start_traffic(self, month: str) -> None:
        traffic = Traffic(
            spec=self._spec,
            base_url=self.deployment.model_server_url,
            partition=month,
            max_flights=self.max_flights,
            outage_s=self.outage_s,
        )
        self.traffic[month] = traffic
        traffic.start()

    def _router(self) -> dict[str, Any]:
        server = self.deployment.model_server()
        until_s = time.monotonic() + self.outage_s
        while True:
            try:
                return server.get_routes(model=MODEL)
            except ServiceError:
                if time.monotonic() >= until_s:
                    raise
            time.sleep(_POLL_S)

    def champion(self) -> str | None:
        """Return the version that the model server routes."""
        return self._router()["routes"]["champion"]

    @cached_property
    def _reserved_requests(self) -> float:
        plans = plan_rollout(self._spec.rollout, requests_per_s=None)
        return _RESERVE * sum(plan.num_requests for plan in plans)

    def _pace_traffic(self, following: str) -> None:
        """Let callers ask slowly, and faster while a challenger needs them: a month's requests are soon used up."""
        if following in self.traffic:
            traffic = self.traffic[following]
            pace = IDLE_REQUESTS_PER_S if traffic.num_left > self._reserved_requests else HELD_REQUESTS_PER_S
            is_needed = needs_requests(self._router(), rollout=self._spec.rollout)
            traffic.requests_per_s = COMPARED_REQUESTS_PER_S if is_needed else pace

    def _wait_for_event(self, asset: str, month: str) -> None:
        deadline = time.monotonic() + self.month_timeout_s
        while month not in [event["partition_key"] for event in self.events(asset)]:
            self._tell_progress(month)
            self._pace_traffic(partitions.shift(month, 1))
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{month} must reach {MODEL}.{asset} within {self.month_timeout_s:.0f} s; got no such event. "
                    f"Logs are in {self.deployment.home.logs / 'tasks'}."
                )
            time.sleep(_POLL_S)

    def _tell_progress(self, month: str) -> None:
        runs = self._runs(month, states=["running", *_FAILED])
        # A challenger that is rolled back leaves a failed deploy behind, for people to see; the month goes on.
        failed = [r["dag_id"] for r in runs if r["state"] in _FAILED and r["dag_id"] != f"deploy_{MODEL}"]
        if failed:
            raise ServiceError(
                f"no Dag run of {month} may fail; got {', '.join(failed)}. "
                f"Logs are in {self.deployment.home.logs / 'tasks'}."
            )
        working = [run["dag_id"].removesuffix(f"_{MODEL}") for run in runs if run["dag_id"] != f"ingest_{MODEL}"]
        self.say(f"{month}: {', '.join(sorted(working)) or 'ingest'}")

    def _runs(self, month: str, *, states: list[str]) -> list[dict[str, Any]]:
        found = self.api.get("dags/~/dagRuns", state=states, limit=100)["dag_runs"]
        return [run for run in found if run.get("partition_key") == month]

    def _wait_for_run(self, dag_id: str, run_id: str) -> None:
        deadline = time.monotonic() + self.month_timeout_s
        while (state := self.api.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"]) != "success":
            if state in _FAILED or time.monotonic() > deadline:
                raise ServiceError(f"{dag_id} {run_id} must succeed; got {state}. See {self.deployment.home.logs}.")
            time.sleep(_POLL_S)


def needs_requests(router: Mapping[str, Any], *, rollout: RolloutSpec) -> bool:
    """Return whether a challenger is compared with the champion, and more requests could still decide."""
    state = read_state(router)
    challenger = state.canary or state.shadow
    stage: Stage = "canary" if state.canary else "shadow"
    if challenger is None:
        return False
    share_pct = state.canary_share_pct
    return not decide_stage(state, version=challenger, stage=stage, share_pct=share_pct, rollout=rollout).is_final
