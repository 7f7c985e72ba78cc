"""Regressions that only traffic reveals, through `deploy_<model>` on a real model server with real callers."""

from __future__ import annotations

import importlib.util
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import TradewindError
from include.testing.supervisor import FakeSupervisor
from include.testing.tasks import run_task
from tests.running import MODEL
from tests.stages.planted import columns, package_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import DAG

    from tests.running import RolloutWorld

DAG_FILE = Path(__file__).parents[2] / "dags" / "deploy.py"
NUM_CALLERS = 2
MAX_REQUESTS = 20_000
"""Of one caller; a rollout that needs more than that fails."""


@pytest.fixture(scope="module")
def dag() -> DAG:
    found = importlib.util.spec_from_file_location("dag_deploy", DAG_FILE)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    deploy: DAG = getattr(module, f"deploy_{MODEL}")
    return deploy


@contextmanager
def callers(world: RolloutWorld) -> Iterator[list[str]]:
    """Have some callers ask for predictions until the rollout has ended; yield what went wrong for them."""
    ended, failures = threading.Event(), list[str]()

    def call(caller: int) -> None:
        for number in range(MAX_REQUESTS):
            if ended.is_set():
                return
            asked = columns(4, seed=number * NUM_CALLERS + caller)
            try:
                world.server.client.infer(model=MODEL, columns=asked, request_id=f"{caller}-{number}")
            except TradewindError as error:
                failures.append(str(error))

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(NUM_CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def run_deploy(dag: DAG, *, run_id: str) -> list[str]:
    """Run the Dag's tasks in order, and `roll_back` after one that failed; return the ids of those that ran."""
    supervisor, ran = FakeSupervisor(), list[str]()
    skipped: set[str] = set()
    for task in dag.topological_sort():
        if task.task_id in ("roll_back", "ended", "closed") or task.task_id in skipped:
            continue
        result = run_task(task, partition="2013-03", supervisor=supervisor, run_id=run_id, trigger_timeout_s=150)
        ran.append(task.task_id)
        skipped |= set(result.skipped)
        if result.state != "success":
            run_task(dag.get_task("roll_back"), partition="2013-03", supervisor=supervisor, run_id=run_id).returned()
            return [*ran, "roll_back"]
    return ran


@pytest.fixture
def champion(rollout_world: RolloutWorld, dag: DAG) -> str:
    version = rollout_world.register(replaced=package_of("champion"))
    assert run_deploy(dag, run_id="first") == ["choose", "deploy", "promote"]
    return version


def evidence_of(world: RolloutWorld, version: str) -> dict[str, Any]:
    """Return the evidence of the stage that a version did not pass."""
    (failed,) = [e for e in world.ledger.entries(MODEL) if e.subject == version and e.evidence.get("verdict") == "fail"]
    return {"kind": failed.kind, **failed.evidence}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "measure"), [("int8", "disagreement"), ("slow", "latency"), ("swapped", "disagreement")]
)
def test_a_planted_regression_is_caught_and_rolled_back(
    rollout_world: RolloutWorld, dag: DAG, champion: str, kind: str, measure: str
) -> None:
    world = rollout_world
    version = world.register(replaced=package_of(kind))
    with callers(world) as failures:
        ran = run_deploy(dag, run_id="bad")
    assert ran == ["choose", "deploy", "shadow_settled", "roll_back"]  # before it answered anybody
    found = evidence_of(world, version)
    assert any(measure in reason for reason in found["reasons"]), found["reasons"]
    rolled_back = world.ledger.entries(MODEL, "roll_back")[-1]
    assert (rolled_back.subject, rolled_back.evidence["champion"]) == (version, champion)
    assert rolled_back.evidence["reasons"] == found["reasons"]
    state = world.state
    assert (state.champion, state.canary, state.shadow, set(state.loaded)) == (champion, None, None, {champion})
    assert (world.alias("champion"), world.alias("challenger")) == (champion, None)
    assert failures == []


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_good_version_passes_the_same_way(rollout_world: RolloutWorld, dag: DAG, champion: str) -> None:
    world = rollout_world
    version = world.register(replaced=package_of("good"))
    with callers(world) as failures:
        ran = run_deploy(dag, run_id="good")
    stages = ["shadow_settled", "shift_10", "settled_10", "shift_50", "settled_50"]
    assert ran == ["choose", "deploy", *stages, "promote"]
    assert (world.state.champion, world.alias("champion")) == (version, version)
    assert failures == []
