"""A roll-back in a real Airflow, in the middle of a deployment, with another one queued."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from include.cli.deployment import sources_of
from include.registry.register import sign_unsigned
from include.rollout.local import LocalTarget
from include.rollout.stages import Rollout
from include.runtime.airflow_api import AirflowApi
from include.spec import load_spec
from tests.running import MODEL, RolloutWorld, RunningModelServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from include.progress.read import Sources
    from include.runtime.services import Deployment

LIMIT_S = 10.0
"""Seconds from the press on Trigger to the end of the roll-back."""

DEPLOY, ROLL_BACK = f"deploy_{MODEL}", f"rollback_{MODEL}"


def wait_until(is_true: Callable[[], bool], *, limit_s: float = 240, what: str) -> float:
    """Return the seconds until something was true."""
    started = time.monotonic()
    while not is_true():
        assert time.monotonic() < started + limit_s, what
        time.sleep(0.1)
    return time.monotonic() - started


def signed_versions(deployment: Deployment, sources: Sources, folder: Path) -> list[str]:
    server = RunningModelServer(folder=folder, storage=sources.storage)
    world = RolloutWorld(server=server, mlflow_url=deployment.mlflow_url, folder=folder)
    found = [world.register(bias=-1.0 - 0.01 * number) for number in range(4)]
    list(sign_unsigned(deployment.mlflow_url, model=MODEL, signer=deployment.home.signer, storage=sources.storage))
    return found


def serve(deployment: Deployment, version: str) -> None:
    rollout = Rollout(
        spec=load_spec(MODEL),
        target=LocalTarget(client=deployment.model_server()),
        ledger=sources_of(deployment).ledger,
        tracking_uri=deployment.mlflow_url,
        actor="test",
        run_key=f"run-of-{version}",
    )
    if rollout.deploy(version).has_rivals:
        rollout.shift(version, share_pct=10)
    rollout.promote(version)


def run_state(api: AirflowApi, dag_id: str, run_id: str) -> str:
    return str(api.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"])


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_a_rollback_wins_while_one_deployment_waits_and_another_is_queued(
    deployment: Deployment, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    sources, target = sources_of(deployment), LocalTarget(client=deployment.model_server())
    api = AirflowApi(base_url=deployment.airflow_url, password=deployment.secrets.admin_password)
    first, second, third, fourth = signed_versions(deployment, sources, tmp_path)
    for version in (first, second):
        serve(deployment, version)

    for run_id, version in (("of-third", third), ("of-fourth", fourth)):
        now = datetime.now(UTC)
        api.trigger(DEPLOY, run_id=run_id, partition="2013-03", run_after=now, conf={"version": version})
        if version == third:  # nobody calls, so it waits
            wait_until(
                lambda: api.task_state(DEPLOY, "of-third", "shadow_settled") == "deferred", what="a shadow that waits"
            )
    assert target.read(model=MODEL).shadow == third
    assert run_state(api, DEPLOY, "of-fourth") == "queued"

    started = time.monotonic()
    api.post(f"dags/{ROLL_BACK}/dagRuns", {"dag_run_id": "now", "logical_date": None, "conf": {"reason": "alerts"}})
    wait_until(lambda: target.read(model=MODEL).champion == first, what="the routes")
    routes_s = time.monotonic() - started
    wait_until(lambda: run_state(api, ROLL_BACK, "now") == "success", what="the run")
    run_s = time.monotonic() - started
    record_property("routes_s", routes_s)
    record_property("run_s", run_s)

    wait_until(lambda: run_state(api, DEPLOY, "of-third") == "failed", what="the deployment that was under way")
    withdrawn_s = time.monotonic() - started
    record_property("withdrawn_s", withdrawn_s)
    (entry,) = [e for e in sources.ledger.entries(MODEL, "roll_back") if e.evidence.get("withdrawn") == third]
    assert "routes changed" in entry.evidence["reasons"][0]
    wait_until(lambda: target.read(model=MODEL).shadow == fourth, what="the deployment that was queued")
    state = target.read(model=MODEL)
    assert (state.champion, state.canary) == (first, None)
    print(f"routes {routes_s:.1f} s, run {run_s:.1f} s, deployment withdrawn {withdrawn_s:.1f} s")  # noqa: T201
    assert run_s < LIMIT_S
