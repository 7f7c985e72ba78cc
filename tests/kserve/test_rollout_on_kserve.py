"""A whole rollout on KServe: the stages, registry and ledger of every deployment, Prometheus' counts, a way back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from include.errors import SetupError
from include.rollout.decision import Verdict, decide_stage
from include.rollout.history import champion_of
from include.rollout.stages import Rollout
from operators.rollout_tasks import comparison_tasks
from sensors.triggers.canary_settled import CanarySettledTrigger
from tests.kserve.places import SERVICE, OnKServe, kserve_place
from tests.running import MODEL
from tests.tiny_models import SPEC, request_columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.rollout.decision import Decision
    from tests.running import RolloutWorld, RunningModelServer

SHARE_PCT = 50.0
SPEC_ON_KSERVE = SPEC.model_copy(
    update={
        "rollout": SPEC.rollout.model_copy(
            update={
                "target": "kserve",
                "strategy": "canary",
                "steps_pct": (SHARE_PCT,),
                "max_error_increase_frac": 0.3,
                "max_latency_ratio": 1000.0,
                "latency_floor_ms": 10_000.0,
                "step_timeout_s": 300.0,
            }
        )
    }
)


@pytest.fixture
def place(model_server: RunningModelServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnKServe]:
    with kserve_place(model_server, mode="Knative", monkeypatch=monkeypatch) as found:
        yield found


def test_a_version_takes_over_by_what_prometheus_counted_and_goes_back(
    rollout_world: RolloutWorld, place: OnKServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rollout(run: str) -> Rollout:
        return _rollout(rollout_world, place, run=run)

    def decided(version: str) -> Decision:
        state = place.target.read(model=MODEL)
        return decide_stage(state, version=version, stage="canary", share_pct=SHARE_PCT, rollout=SPEC_ON_KSERVE.rollout)

    first = rollout_world.register()
    assert rollout("run-1").deploy(first).is_bootstrap
    assert rollout("run-1").promote(first).kind == "bootstrap"
    second = rollout_world.register()
    found = rollout("run-2").deploy(second)
    assert (found.version, found.champion, found.golden["num_rows"]) == (second, first, 20)
    rollout("run-2").shift(second, share_pct=SHARE_PCT)
    place.catch_up()
    assert decided(second).verdict is Verdict.KEEP_WAITING
    for number in range(240):
        place.server.client.infer(model=MODEL, columns=request_columns(1, first=number), sticky_key=f"key-{number}")
    place.catch_up()
    decision = decided(second)
    assert decision.verdict is Verdict.PASS, decision
    assert _sent_by_the_trigger(second, place, monkeypatch) == decision.to_json()
    rollout("run-2").settle(second, decision, stage="canary", share_pct=SHARE_PCT)
    assert rollout("run-2").promote(second).kind == "promote"
    assert (rollout_world.alias("champion"), place.target.read(model=MODEL).champion) == (second, second)
    rollout("run-3").roll_back(reason="a test")
    assert (rollout_world.alias("champion"), place.target.read(model=MODEL).champion) == (first, first)
    assert champion_of(rollout_world.ledger, MODEL) == first


def test_no_evidence_is_inconclusive_at_the_deadline_and_the_version_is_taken_out(
    rollout_world: RolloutWorld, place: OnKServe
) -> None:
    def rollout(run: str) -> Rollout:
        return _rollout(rollout_world, place, run=run)

    first = rollout_world.register()
    rollout("run-1").deploy(first)
    rollout("run-1").promote(first)
    second = rollout_world.register()
    rollout("run-2").deploy(second)
    rollout("run-2").shift(second, share_pct=SHARE_PCT)
    place.clock.at += 301
    state = place.target.read(model=MODEL)
    decision = decide_stage(state, version=second, stage="canary", share_pct=SHARE_PCT, rollout=SPEC_ON_KSERVE.rollout)
    assert decision.verdict is Verdict.INCONCLUSIVE
    entry = rollout("run-2").withdraw(second)
    assert entry is not None
    assert entry.kind == "roll_back"
    state = place.target.read(model=MODEL)
    assert (state.champion, state.canary) == (first, None)


def test_a_version_that_never_got_ready_is_removed_when_it_is_taken_out(
    rollout_world: RolloutWorld, model_server: RunningModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kserve_place(model_server, mode="Standard", monkeypatch=monkeypatch) as place:
        first = rollout_world.register()
        _rollout(rollout_world, place, run="run-1").deploy(first)
        _rollout(rollout_world, place, run="run-1").promote(first)
        before = place.cluster.store.objects[SERVICE]["spec"]
        second = rollout_world.register()
        place.cluster.broken[second] = "OOMKilled"
        with pytest.raises(SetupError, match="OOMKilled"):
            _rollout(rollout_world, place, run="run-2").deploy(second)
        assert place.cluster.store.objects[SERVICE]["spec"] != before
        assert _rollout(rollout_world, place, run="run-2").withdraw(second) is not None
        assert place.cluster.store.objects[SERVICE]["spec"] == before


def test_the_dag_has_a_canary_and_no_shadow() -> None:
    assert [task.task_id for task in comparison_tasks(SPEC_ON_KSERVE)] == ["shift_50", "settled_50"]


def _rollout(world: RolloutWorld, place: OnKServe, *, run: str) -> Rollout:
    return Rollout(
        spec=SPEC_ON_KSERVE,
        target=place.target,
        ledger=world.ledger,
        tracking_uri=world.mlflow_url,
        actor=run,
        run_key=run,
    )


def _sent_by_the_trigger(version: str, place: OnKServe, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("sensors.triggers.canary_settled.load_spec", lambda _: SPEC_ON_KSERVE)
    monkeypatch.setattr("sensors.triggers.canary_settled.target_of", lambda *_, **__: place.target)
    trigger = CanarySettledTrigger(
        model=MODEL, version=version, stage="canary", share_pct=SHARE_PCT, model_server_conn_id="kserve_default"
    )

    async def first() -> object:
        async for event in trigger.run():
            return event.payload
        return None

    return asyncio.run(first())
