"""Rollouts on a real model server, a real MLflow and a real ledger; killed between any two of their calls."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import GateError, InconclusiveError, NotFoundError, SetupError
from include.rollout.decision import Decision, Verdict, decide_stage
from include.rollout.local import LocalTarget
from include.rollout.stages import Rollout
from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.running import RolloutWorld

SPEC = load_spec("flight_delays")
QUICK = SPEC.model_copy(
    update={
        "rollout": SPEC.rollout.model_copy(
            update={
                "max_error_increase_frac": 0.9,
                "latency_quantile": 0.5,
                "max_disagreement_frac": 0.5,
                "disagreement_margin_frac": 0.4,
            }
        )
    }
)
PASSED = Decision(verdict=Verdict.PASS, reasons=("good",), evidence={})


class KilledError(BaseException):
    """Ends a stage as SIGKILL would: nothing of ours catches it."""


@dataclass
class Mortal:
    """Passes calls on, and dies before one of them; those who share `calls_left` count together."""

    wrapped: Any
    calls_left: list[int]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.wrapped, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls_left[0] -= 1
            if self.calls_left[0] == -1:
                raise KilledError(name)
            return found(*args, **kwargs)

        return call


@dataclass
class Stages:
    """Makes the rollouts of several runs in one world."""

    world: RolloutWorld
    spec: Any = QUICK

    def of(self, run: str = "run-1", *, dies_before_call: int | None = None) -> Rollout:
        target: Any = LocalTarget(client=self.world.server.client)
        ledger: Any = self.world.ledger
        if dies_before_call is not None:
            calls_left = [dies_before_call]
            target, ledger = Mortal(target, calls_left), Mortal(ledger, calls_left)
        return Rollout(
            spec=self.spec,
            target=target,
            ledger=ledger,
            tracking_uri=self.world.mlflow_url,
            actor="test",
            run_key=f"deploy:{run}",
        )

    def champion(self, run: str = "run-0", **how: Any) -> str:
        version = self.world.register(**how)
        self.of(run).deploy(None)
        self.of(run).promote(version)
        return version


@pytest.fixture
def stages(rollout_world: RolloutWorld) -> Stages:
    return Stages(rollout_world)


def kinds(world: RolloutWorld) -> list[tuple[str, str]]:
    return [(entry.kind, entry.subject) for entry in world.ledger.entries("flight_delays")]


def test_the_first_version_is_bootstrapped(stages: Stages) -> None:
    world = stages.world
    version = world.register()
    deployment = stages.of().deploy(None)
    assert (deployment.version, deployment.champion, deployment.is_bootstrap) == (version, None, True)
    assert not deployment.has_rivals
    assert world.state.champion is None  # it was only loaded and checked
    entry = stages.of().promote(version, approved_by="ada")
    assert (entry.kind, entry.evidence["champion"], entry.evidence["previous"]) == ("bootstrap", version, None)
    assert entry.evidence["golden"]["num_rows"] == 20
    assert (entry.evidence["approved_by"], entry.evidence["commit"]) == ("ada", "abc")
    assert (world.state.champion, world.alias("champion"), world.alias("challenger")) == (version, version, None)


def test_a_challenger_goes_through_shadow_and_canary(stages: Stages) -> None:
    world = stages.world
    first, second = stages.champion(), world.register(bias=-0.9)
    rollout = stages.of()
    assert rollout.deploy(None).has_rivals
    assert (world.state.champion, world.state.shadow) == (first, second)
    world.send(20)
    world.wait_for(second, "shadow", 20)
    decision = decide_stage(world.state, version=second, stage="shadow", share_pct=0, rollout=QUICK.rollout)
    rollout.settle(second, decision, stage="shadow", share_pct=0)
    rollout.shift(second, share_pct=50)
    assert world.send(60) == {first, second}
    decision = decide_stage(world.state, version=second, stage="canary", share_pct=50, rollout=QUICK.rollout)
    rollout.settle(second, decision, stage="canary", share_pct=50)
    entry = rollout.promote(second)
    assert (entry.kind, entry.evidence["previous"]) == ("promote", first)
    assert (world.state.champion, world.state.canary, world.alias("champion")) == (second, None, second)
    assert world.state.loaded == {first, second}  # going back takes no load
    assert kinds(world)[1:] == [
        ("shadow", second),
        ("shadow", second),
        ("canary_step", second),
        ("canary_step", second),
        ("promote", second),
    ]
    assert world.ledger.verify() == 6


def test_only_champion_and_the_one_before_stay_loaded(stages: Stages) -> None:
    versions = [stages.champion("run-1")]
    for number in (2, 3):
        version = stages.world.register()
        rollout = stages.of(f"run-{number}")
        rollout.deploy(None)
        rollout.shift(version, share_pct=10)
        rollout.promote(version)
        versions.append(version)
    assert stages.world.state.loaded == set(versions[1:])


def undisturbed(world: RolloutWorld) -> tuple[Any, ...]:
    """Return all that a rollout leaves behind, with versions as numbers from the first one on."""
    known = sorted(world.state.loaded, key=int)
    name = {version: number for number, version in enumerate(known)}
    state = world.state
    routes = [name.get(version or "") for version in (state.champion, state.canary, state.shadow)]
    aliases = [name.get(world.alias(alias) or "") for alias in ("champion", "challenger")]
    return (*routes, state.canary_share_pct, *aliases, [kind for kind, _ in kinds(world)])


STAGES: dict[str, Callable[[Rollout, str], Any]] = {
    "deploy": lambda rollout, _version: rollout.deploy(None),
    "shift": lambda rollout, version: rollout.shift(version, share_pct=10),
    "settle": lambda rollout, version: rollout.settle(version, PASSED, stage="canary", share_pct=10),
    "promote": lambda rollout, version: rollout.promote(version),
}


def roll_out(stages: Stages, version: str, *, dying: str = "", dies_before_call: int = 0) -> bool:
    """Run all stages; the one named is killed before a call and run again. Return whether it was killed."""
    was_killed = False
    for name, stage in STAGES.items():
        if name == dying:
            try:
                stage(stages.of(dies_before_call=dies_before_call), version)
            except KilledError:
                was_killed = True
        stage(stages.of(), version)
    return was_killed


@pytest.mark.parametrize("dying", list(STAGES))
def test_a_stage_that_is_killed_anywhere_ends_as_if_it_was_not(stages: Stages, dying: str) -> None:
    world = stages.world
    stages.champion()
    roll_out(stages, world.register())
    expected = undisturbed(world)
    for call in range(40):
        world.server.reset()
        world.forget()
        stages.world = world = replace(world, folder=world.folder / str(call))
        world.folder.mkdir()
        stages.champion()
        if not roll_out(stages, world.register(), dying=dying, dies_before_call=call):
            break
        assert undisturbed(world) == expected, f"killed before call {call}"
    assert call > 1


def test_a_challenger_that_is_withdrawn_leaves_the_champion(stages: Stages) -> None:
    world = stages.world
    first, second = stages.champion(), world.register()
    rollout = stages.of()
    rollout.deploy(None)
    rollout.shift(second, share_pct=10)
    failed = Decision(verdict=Verdict.FAIL, reasons=("error_frac 1 > 0.01",), evidence={"challenger": {"errors": 9}})
    with pytest.raises(GateError, match=rf"canary of 'flight_delays' v{second} at 10 %: error_frac 1 > 0.01"):
        rollout.settle(second, failed, stage="canary", share_pct=10)
    for _ in range(2):
        entry = rollout.withdraw(second)
    assert entry is not None
    assert (entry.kind, entry.subject, entry.evidence["champion"]) == ("roll_back", second, first)
    assert entry.evidence["reasons"] == ["error_frac 1 > 0.01"]
    decided_by = world.ledger.entries()[entry.evidence["decided_by"][0] - 1]
    assert decided_by.evidence["challenger"] == {"errors": 9}
    assert (world.state.champion, world.state.canary, world.state.loaded) == (first, None, {first})
    assert (world.alias("champion"), world.alias("challenger")) == (first, None)
    assert [kind for kind, _ in kinds(world)].count("roll_back") == 1


def test_too_little_evidence_is_inconclusive(stages: Stages) -> None:
    version = stages.world.register()
    late = Decision(verdict=Verdict.INCONCLUSIVE, reasons=("challenger took 1 of 3 requests",), evidence={})
    with pytest.raises(InconclusiveError, match=r"shadow of .* without an answer: challenger took 1 of 3"):
        stages.of().settle(version, late, stage="shadow", share_pct=0)


def test_withdrawing_without_any_challenger_changes_nothing(stages: Stages) -> None:
    first = stages.champion()
    recorded = kinds(stages.world)
    assert stages.of().withdraw(None) is None
    assert stages.of().withdraw(first) is None  # the champion itself
    assert (stages.world.state.champion, kinds(stages.world)) == (first, recorded)


def test_withdrawing_takes_out_the_version_named_and_no_other(stages: Stages) -> None:
    world = stages.world
    older, first, waiting = world.register(window_end="2013-02"), stages.champion(), world.register()
    with pytest.raises(GateError, match="must know data at least"):
        stages.of().deploy(older)
    entry = stages.of().withdraw(older)
    assert entry is not None
    assert (entry.subject, entry.evidence["champion"]) == (older, first)
    assert (world.alias("challenger"), world.state.champion) == (waiting, first)


def test_withdrawing_leaves_the_former_champion_loaded(stages: Stages) -> None:
    world = stages.world
    first, second = stages.champion(), world.register(window_end="2013-04")
    stages.of().deploy(None)
    stages.of().shift(second, share_pct=10)
    stages.of().promote(second)
    stages.of("run-2").withdraw(first)
    assert world.state.loaded == {first, second}


def test_a_promotion_that_was_cut_off_is_completed_not_withdrawn(stages: Stages) -> None:
    world = stages.world
    _, second = stages.champion(), world.register()
    stages.of().deploy(None)
    stages.of().shift(second, share_pct=10)
    world.server.client.set_routes(model="flight_delays", champion=second)  # and killed before alias and ledger
    with pytest.raises(SetupError, match=rf"v{second} must be recorded as champion.* Clear `promote`"):
        stages.of().withdraw(second)
    assert world.state.champion == second
    assert stages.of().promote(second).kind == "promote"
    assert stages.of().withdraw(second) is None


@pytest.mark.parametrize("call", range(9))
def test_a_withdrawal_that_is_killed_is_completed_by_the_next_try(stages: Stages, call: int) -> None:
    world = stages.world
    first, second = stages.champion(), world.register()
    stages.of().deploy(None)
    with suppress(KilledError):
        stages.of(dies_before_call=call).withdraw(None)
    stages.of().withdraw(None)
    assert kinds(world)[-1] == ("roll_back", second)
    assert [kind for kind, _ in kinds(world)].count("roll_back") == 1
    assert (world.state.champion, world.state.loaded, world.alias("challenger")) == (first, {first}, None)


def test_what_was_withdrawn_meanwhile_is_neither_shifted_nor_promoted(stages: Stages) -> None:
    world = stages.world
    first, second = stages.champion(), world.register()
    stages.of().deploy(None)
    stages.of("by-hand").withdraw(second)
    with pytest.raises(GateError, match="must still be in the rollout"):
        stages.of().shift(second, share_pct=10)
    with pytest.raises(GateError, match="must still be in the rollout"):
        stages.of().promote(second)
    assert world.state.champion == world.alias("champion") == first


def test_without_a_challenger_nothing_is_deployed(stages: Stages) -> None:
    with pytest.raises(NotFoundError, match="must have a version with the alias 'challenger'"):
        stages.of().deploy(None)
    with pytest.raises(NotFoundError):
        stages.of().deploy("99999")


def test_a_challenger_that_scores_its_golden_rows_differently_takes_no_traffic(stages: Stages) -> None:
    first = stages.champion()
    stages.world.register(golden_error=0.01)
    with pytest.raises(GateError, match=r"golden requests of .* must be within 0.001 of the recorded scores; got 0.01"):
        stages.of().deploy(None)
    assert (stages.world.state.champion, stages.world.state.shadow) == (first, None)


@pytest.mark.parametrize(
    ("window_end", "force", "is_allowed"),
    [("2013-02", False, False), ("2013-02", True, True), ("2013-03", False, True), ("2013-04", False, True)],
)
def test_a_challenger_must_know_the_champions_data(
    stages: Stages, window_end: str, *, force: bool, is_allowed: bool
) -> None:
    stages.champion(window_end="2013-03")
    version = stages.world.register(window_end=window_end)
    if is_allowed:
        assert stages.of().deploy(None, force=force).version == version
    else:
        with pytest.raises(GateError, match=r"must know data at least to 2013-03, as champion .* got 2013-02"):
            stages.of().deploy(None, force=force)


def test_a_version_named_wins_over_the_alias(stages: Stages) -> None:
    older, newer = stages.world.register(), stages.world.register()
    assert stages.of().deploy(older).version == older
    assert stages.world.alias("challenger") == newer


def test_a_server_that_forgot_its_champion_gets_it_back(stages: Stages) -> None:
    world = stages.world
    first = stages.champion()
    world.server.reset()
    second = world.register()
    deployment = stages.of().deploy(None)
    assert (deployment.champion, deployment.is_bootstrap) == (first, False)
    assert (world.state.champion, world.state.shadow) == (first, second)


def test_a_champion_that_the_server_forgot_is_known_after_a_challenger_was_withdrawn(stages: Stages) -> None:
    world = stages.world
    first = stages.champion()
    world.server.reset()
    second = world.register()
    entry = stages.of().withdraw(second)  # deploy could not give the champion back
    assert entry is not None
    assert (entry.evidence["champion"], world.state.champion) == (first, None)
    third = world.register()
    deployment = stages.of("run-2").deploy(None)
    assert (deployment.version, deployment.champion, deployment.is_bootstrap) == (third, first, False)


def test_a_rollout_replaces_what_a_dead_one_left(stages: Stages) -> None:
    world = stages.world
    first, second = stages.champion(), world.register()
    stages.of("dead").deploy(None)
    stages.of("dead").shift(second, share_pct=50)
    third = world.register()
    stages.of().deploy(None)
    assert (world.state.champion, world.state.canary, world.state.shadow) == (first, None, third)


def test_a_rollout_that_is_cleared_begins_anew(stages: Stages) -> None:
    world = stages.world
    _, second = stages.champion(), world.register()
    stages.of().deploy(None)
    stages.of().shift(second, share_pct=50)
    stages.of().deploy(None)
    assert (world.state.canary, world.state.shadow) == (None, second)
    stages.of().shift(second, share_pct=10)
    started = [e for e in world.ledger.entries(kind="canary_step") if e.evidence["state"] == "started"]
    assert [entry.evidence["share_pct"] for entry in started] == [50.0, 10.0]


def test_rolling_back_returns_to_the_champion_before_and_again_to_the_one_before_that(stages: Stages) -> None:
    world = stages.world
    versions = [stages.champion()]
    for run in ("run-2", "run-3"):
        versions.append(world.register())
        stages.of(run).deploy(None)
        stages.of(run).shift(versions[-1], share_pct=10)
        stages.of(run).promote(versions[-1])
    for _ in range(2):  # a retry goes back once
        entry = stages.of("rollback-1").roll_back(reason="late at night")
    assert (entry.evidence["champion"], entry.evidence["previous"]) == (versions[1], versions[2])
    assert entry.evidence["reasons"] == ["late at night"]
    assert (world.state.champion, world.alias("champion")) == (versions[1], versions[1])
    stages.of("rollback-2").roll_back()
    assert world.state.champion == versions[0]  # it was unloaded and is loaded again
    with pytest.raises(NotFoundError, match=f"a champion before v{versions[0]}"):
        stages.of("rollback-3").roll_back()
    stages.of("rollback-4").roll_back(versions[2])
    assert world.state.champion == versions[2]
    assert world.ledger.verify() > 0


def test_rolling_back_ends_a_canary(stages: Stages) -> None:
    world = stages.world
    versions = [stages.champion(), world.register()]
    stages.of().deploy(None)
    stages.of().shift(versions[1], share_pct=10)
    stages.of().promote(versions[1])
    world.register()
    stages.of("run-3").deploy(None)
    stages.of("rollback").roll_back()
    assert (world.state.champion, world.state.canary, world.state.shadow) == (versions[0], None, None)


@pytest.mark.parametrize("call", range(7))
def test_rolling_back_when_killed_goes_back_once(stages: Stages, call: int) -> None:
    world = stages.world
    first, second = stages.champion(), world.register()
    stages.of().deploy(None)
    stages.of().shift(second, share_pct=10)
    stages.of().promote(second)
    try:
        stages.of("rollback", dies_before_call=call).roll_back()
    except KilledError:
        stages.of("rollback").roll_back()
    assert (world.state.champion, world.alias("champion")) == (first, first)
    assert [kind for kind, _ in kinds(world)].count("roll_back") == 1


def test_rolling_back_a_promotion_that_was_cut_off_returns_to_the_ledgers_champion(stages: Stages) -> None:
    world = stages.world
    first, second = stages.champion(), world.register()
    stages.of().deploy(None)
    world.server.client.set_routes(model="flight_delays", champion=second)  # and killed before alias and ledger
    entry = stages.of("rollback").roll_back()
    assert (world.state.champion, entry.evidence["champion"], entry.evidence["previous"]) == (first, first, second)
