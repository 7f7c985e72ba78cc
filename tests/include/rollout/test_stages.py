"""Rollouts on a real model server, a real MLflow and a real ledger; killed between any two of their calls."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import GateError, InconclusiveError, NotFoundError, ServiceError, SetupError
from include.registry.models import set_alias
from include.rollout import aliases
from include.rollout import deployment as deployment_module
from include.rollout import stages as stages_module
from include.rollout.decision import Decision, Verdict, decide_stage
from include.rollout.history import champion_of, serving_at
from include.rollout.local import LocalTarget
from include.rollout.stages import Rollout
from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.running import RolloutWorld

MODEL = "flight_delays"
SPEC = load_spec(MODEL)
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


EFFECTS = ("deploy", "set_shadow", "set_share", "promote", "withdraw", "remove", "append", "set_alias", "delete_alias")
"""Calls to target, ledger and registry that change something. Who dies before another one dies after such a one."""


@dataclass
class Countdown:
    """Lets something happen before one of the calls that count: by default, death."""

    calls_left: int
    happen: Callable[[], Any] | None = None
    counting: Sequence[str] = EFFECTS

    def tick(self, name: str) -> None:
        if self.counting and name not in self.counting:
            return
        self.calls_left -= 1
        if self.calls_left == -1:
            if self.happen is None:
                raise KilledError(name)
            self.happen()

    def before(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.tick(name)
            return function(*args, **kwargs)

        return call


@dataclass
class Counted:
    """Passes calls on, each counted down."""

    wrapped: Any
    countdown: Countdown

    def __getattr__(self, name: str) -> Any:
        return self.countdown.before(name, getattr(self.wrapped, name))


REGISTRY = {
    stages_module: ("get_alias", "get_version"),
    deployment_module: ("get_version",),
    aliases: ("get_alias", "set_alias", "delete_alias"),
}


@dataclass
class Stages:
    """Makes the rollouts of several runs in one world."""

    world: RolloutWorld
    spec: Any = QUICK

    def of(self, run: str = "run-1", *, countdown: Countdown | None = None) -> Rollout:
        target: Any = LocalTarget(client=self.world.server.client)
        ledger: Any = self.world.ledger
        if countdown is not None:
            target, ledger = Counted(target, countdown), Counted(ledger, countdown)
        return Rollout(
            spec=self.spec,
            target=target,
            ledger=ledger,
            tracking_uri=self.world.mlflow_url,
            actor="test",
            run_key=f"deploy:{run}",
        )

    @contextmanager
    def counted(self, countdown: Countdown, run: str = "run-1") -> Iterator[Rollout]:
        """Yield a rollout whose every call to target, ledger and registry is counted down."""
        with pytest.MonkeyPatch.context() as patch:
            for module, names in REGISTRY.items():
                for name in names:
                    patch.setattr(module, name, countdown.before(name, getattr(module, name)))
            yield self.of(run, countdown=countdown)

    def is_killed(self, stage: Callable[[Rollout], Any], *, before_call: int, run: str = "run-1") -> bool:
        """Run a stage that dies before a call; return False if it ended before that."""
        try:
            with self.counted(Countdown(before_call), run) as rollout:
                stage(rollout)
        except KilledError:
            return True
        return False

    def champion(self, run: str = "run-0", **how: Any) -> str:
        version = self.world.register(**how)
        self.of(run).deploy(None)
        self.of(run).promote(version)
        return version

    def champion_after(self, version: str) -> None:
        run = f"run-of-{version}"
        if self.of(run).deploy(version).has_rivals:
            self.of(run).shift(version, share_pct=10)
        self.of(run).promote(version)

    def with_strategy(self, strategy: str) -> Stages:
        rollout = self.spec.rollout.model_copy(update={"strategy": strategy})
        return replace(self, spec=self.spec.model_copy(update={"rollout": rollout}))


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
        ("deploy", second),
        ("shadow", second),
        ("shadow", second),
        ("canary_step", second),
        ("canary_step", second),
        ("promote", second),
    ]
    assert world.ledger.verify() == 7


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
    """Return all that a rollout leaves behind."""
    state = world.state
    routes = (state.champion, state.canary, state.canary_share_pct, state.shadow, state.loaded)
    return (*routes, world.alias("champion"), world.alias("challenger"), kinds(world))


STAGES: dict[str, Callable[..., Any]] = {
    "deploy": lambda rollout, version: rollout.deploy(version),
    "shift": lambda rollout, version: rollout.shift(version, share_pct=10),
    "settle": lambda rollout, version: rollout.settle(version, PASSED, stage="canary", share_pct=10),
    "promote": lambda rollout, version: rollout.promote(version),
}


def roll_out(stages: Stages, version: str, *, dying: str = "", before_call: int = 0) -> bool:
    """Run all stages; the one named is killed before a call and run again. Return whether it was killed."""
    was_killed = False
    for name, stage in STAGES.items():
        if name == dying:
            was_killed = stages.is_killed(partial(stage, version=version), before_call=before_call)
        stage(stages.of(), version=version)
    return was_killed


def anew(stages: Stages, name: str, *before: str) -> None:
    """Forget every route, alias and entry, and promote some versions again."""
    stages.world.server.reset()
    stages.world.forget()
    stages.world = replace(stages.world, folder=stages.world.folder / name)
    stages.world.folder.mkdir()
    for version in before:
        stages.champion_after(version)


@pytest.mark.parametrize("dying", list(STAGES))
def test_a_stage_that_is_killed_anywhere_ends_as_if_it_was_not(stages: Stages, dying: str) -> None:
    first, second = stages.world.register(), stages.world.register()
    anew(stages, "undisturbed", first)
    roll_out(stages, second)
    expected = undisturbed(stages.world)
    for call in range(40):
        anew(stages, str(call), first)
        was_killed = roll_out(stages, second, dying=dying, before_call=call)
        assert undisturbed(stages.world) == expected, f"killed before call {call}"
        if not was_killed:
            break
    assert not was_killed
    assert call > 0


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
    assert (world.state.champion, world.state.canary, set(world.state.loaded)) == (first, None, {first})
    assert (world.alias("champion"), world.alias("challenger")) == (first, None)
    assert [kind for kind, _ in kinds(world)].count("roll_back") == 1


def test_too_little_evidence_is_inconclusive(stages: Stages) -> None:
    version = stages.world.register()
    late = Decision(verdict=Verdict.INCONCLUSIVE, reasons=("challenger took 1 of 3 requests",), evidence={})
    with pytest.raises(InconclusiveError, match=r"shadow of .* without an answer: challenger took 1 of 3"):
        stages.of().settle(version, late, stage="shadow", share_pct=0)


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR])
def test_whatever_is_no_pass_is_the_reason_of_the_roll_back(stages: Stages, verdict: Verdict) -> None:
    stages.champion()
    second = stages.world.register()
    stages.of().deploy(None)
    decision = Decision(verdict=verdict, reasons=("counts fell",), evidence={})
    with pytest.raises((GateError, InconclusiveError), match="counts fell"):
        stages.of().settle(second, decision, stage="shadow", share_pct=0)
    entry = stages.of().withdraw(second)
    assert entry is not None
    assert entry.evidence["reasons"] == ["counts fell"]


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


def test_a_withdrawal_that_is_killed_anywhere_is_completed_by_the_next_try(stages: Stages) -> None:
    world = stages.world
    first = stages.champion()
    second = world.register()
    for call in range(40):
        run = f"run-{call}"
        set_alias(world.mlflow_url, model=MODEL, alias="challenger", version=second)
        stages.of(run).deploy(None)
        was_killed = stages.is_killed(lambda rollout: rollout.withdraw(None), before_call=call, run=run)
        stages.of(run).withdraw(None)
        assert kinds(world).count(("roll_back", second)) == call + 1
        assert (world.state.champion, set(world.state.loaded), world.alias("challenger")) == (first, {first}, None)
        if not was_killed:
            break
    assert not was_killed
    assert call > 3


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


def test_rolling_back_when_killed_anywhere_goes_back_once(stages: Stages) -> None:
    world = stages.world
    first, second = stages.champion(), world.register()
    for call in range(40):
        run = f"run-{call}"
        stages.of(run).deploy(second)
        stages.of(run).shift(second, share_pct=10)
        stages.of(run).promote(second)
        back = f"rollback-{call}"
        was_killed = stages.is_killed(lambda rollout: rollout.roll_back(), before_call=call, run=back)
        stages.of(back).roll_back()
        assert (world.state.champion, world.alias("champion")) == (first, first)
        assert [kind for kind, _ in kinds(world)].count("roll_back") == call + 1
        if not was_killed:
            break
    assert not was_killed
    assert call > 1


def test_rolling_back_a_promotion_that_was_cut_off_returns_to_the_ledgers_champion(stages: Stages) -> None:
    world = stages.world
    first, second = stages.champion(), world.register()
    stages.of().deploy(None)
    world.server.client.set_routes(model="flight_delays", champion=second)  # and killed before alias and ledger
    entry = stages.of("rollback").roll_back()
    assert (world.state.champion, entry.evidence["champion"], entry.evidence["previous"]) == (first, first, second)


def test_a_shadow_that_passed_is_promoted_where_the_strategy_says_so(stages: Stages) -> None:
    stages = stages.with_strategy("shadow")
    world, first, second = stages.world, stages.champion(), stages.world.register()
    stages.of().deploy(None)
    assert (world.state.champion, world.state.shadow) == (first, second)
    assert stages.of().promote(second).kind == "promote"
    assert (world.state.champion, world.state.shadow) == (second, None)


def test_a_shadow_is_not_promoted_where_a_canary_is_asked_for(stages: Stages) -> None:
    stages.champion()
    second = stages.world.register()
    stages.of().deploy(None)
    with pytest.raises(GateError, match="must still be in the rollout"):
        stages.of().promote(second)


def test_a_canary_needs_no_shadow_where_the_strategy_says_so(stages: Stages) -> None:
    stages = stages.with_strategy("canary")
    world, first, second = stages.world, stages.champion(), stages.world.register()
    stages.of().deploy(None)
    assert (world.state.champion, world.state.shadow, world.state.canary) == (first, None, None)
    with pytest.raises(GateError, match="must still be in the rollout"):
        stages.of().shift(second, share_pct=50)  # not the first step
    stages.of().shift(second, share_pct=10)
    stages.of().shift(second, share_pct=50)
    stages.of().promote(second)
    assert world.state.champion == second
    assert ("shadow", second) not in kinds(world)


@pytest.mark.parametrize("how", ["withdrawn", "rolled back"])
def test_a_canary_that_was_taken_out_before_its_first_step_does_not_begin_it(stages: Stages, how: str) -> None:
    stages = stages.with_strategy("canary")
    world, first, second = stages.world, stages.champion(), stages.world.register()
    stages.of().deploy(None)
    if how == "withdrawn":
        stages.of("by-hand").withdraw(second)
    else:
        stages.of("by-hand").roll_back(first)
    with pytest.raises(GateError, match="must still be in the rollout"):
        stages.of().shift(second, share_pct=10)
    assert (world.state.champion, world.state.canary) == (first, None)


def test_the_ledger_says_where_a_version_comes_from_and_who_approved_it(stages: Stages) -> None:
    world = stages.world
    stages.champion()
    second = world.register()
    stages.of().deploy(None, approved_by="ada")
    stages.of().shift(second, share_pct=10)
    stages.of().promote(second)
    begun, _, step, promoted = world.ledger.entries(MODEL)[1:]
    assert [stage["name"] for stage in begun.evidence["plan"]] == ["shadow", "10 %", "50 %"]
    assert all(stage["num_requests"] > 0 for stage in begun.evidence["plan"])
    for entry in (begun, promoted):
        assert entry.evidence["data_versions"] == {"flights": 3}
        assert entry.evidence["parameters"] == {"epochs": 2, "seed": 7}
        assert (entry.evidence["commit"], entry.evidence["golden"]["num_rows"]) == ("abc", 20)
        assert entry.evidence["golden"]["latency_p95_ms"] > 0
    assert {entry.evidence["approved_by"] for entry in (begun, step, promoted)} == {"ada"}
    (served,) = serving_at(world.ledger, MODEL, datetime.now(UTC))
    assert (served.version, served.share_pct, served.origin["data_versions"]) == (second, 100.0, {"flights": 3})


def test_a_champion_that_the_ledger_does_not_know_is_compared_with_nobody(stages: Stages) -> None:
    """Routes set by hand, a promotion cut off, or a ledger restored from before the last promotion."""
    world = stages.world
    first = stages.champion()
    kept = (world.folder / "ledger.sqlite").read_bytes()
    stages.champion_after(second := world.register())
    (world.folder / "ledger.sqlite").write_bytes(kept)
    for leftover in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
        (world.folder / leftover).unlink(missing_ok=True)
    third = world.register()
    with pytest.raises(SetupError, match=rf"v{second} by the routes; got v{first}: .* Nothing was deployed"):
        stages.of("run-3").deploy(None)
    assert (world.state.champion, world.state.shadow) == (second, None)
    stages.of("rollback").roll_back(second, reason="it should serve")
    assert stages.of("run-3").deploy(None).version == third


def test_a_decision_on_a_head_that_moved_is_not_recorded(stages: Stages) -> None:
    world = stages.world
    stages.champion()
    second = world.register()
    stages.of().deploy(None)
    stages.of().shift(second, share_pct=10)
    other = {"champion": "theirs", "previous": None}

    class Behind(Countdown):
        def tick(self, name: str) -> None:
            if name == "append":  # another writer was faster by one entry
                world.ledger.append(
                    model=MODEL, kind="promote", subject="theirs", evidence=other, actor="other", key="other"
                )

    with stages.counted(Behind(0)) as rollout, pytest.raises(ServiceError, match=r"must still be entry 1 .* got \d+"):
        rollout.promote(second)
    assert champion_of(world.ledger, MODEL) == "theirs"
    assert ("promote", second) not in kinds(world)


def run_as_the_dag_does(stages: Stages, version: str, *, countdown: Countdown) -> None:
    """Run a rollout with one retry for what a server refuses; whatever fails takes the version out."""
    try:
        for stage in STAGES.values():
            try:
                with stages.counted(countdown) as rollout:
                    stage(rollout, version=version)
            except ServiceError:
                stage(stages.of(), version=version)
    except GateError:
        stages.of().withdraw(version)


def served(stages: Stages) -> list[tuple[str, str]]:
    """Return who serves, as the ledger has it."""
    return [(one.version, one.role) for one in serving_at(stages.world.ledger, MODEL, datetime.now(UTC))]


def went_back(stages: Stages, versions: Sequence[str], *, before_call: int) -> bool:
    """Roll back before one of the calls of a rollout; return False if it ended before that."""
    world, (first, _, third) = stages.world, versions
    back: list[str] = []
    countdown = Countdown(before_call, lambda: back.append(stages.of("rollback").roll_back().subject), counting=())
    run_as_the_dag_does(stages, third, countdown=countdown)
    if not back:
        return False
    state = world.state
    began_beside = [e.evidence["champion"] for e in world.ledger.entries(MODEL, "deploy") if e.subject == third]
    # A rollout that began before it is over. One that began after it is another, beside the version gone back to.
    expected = third if began_beside == back == [first] else back[0]
    assert (state.champion, state.canary, state.shadow) == (expected, None, None), f"before call {before_call}"
    assert champion_of(world.ledger, MODEL) == world.alias("champion") == expected, f"before call {before_call}"
    assert served(stages) == [(expected, "champion")], f"before call {before_call}"
    return True


def all_points(stages: Stages, rolled_out: str, *, step: int) -> int:
    versions = [stages.world.register() for _ in range(3)]
    if rolled_out == "former":
        versions[2] = versions[0]
    for number, call in enumerate(range(0, 200, step)):
        anew(stages, str(call), *versions[:2])
        if not went_back(stages, versions, before_call=call):
            return number
    raise AssertionError("a rollout has fewer calls")


@pytest.mark.parametrize("rolled_out", ["new", "former"])
def test_a_rollback_wins_at_any_moment_of_a_rollout(stages: Stages, rolled_out: str) -> None:
    assert all_points(stages, rolled_out, step=5) > 5


@pytest.mark.chaos
@pytest.mark.parametrize("rolled_out", ["new", "former"])
def test_a_rollback_wins_at_each_moment_of_a_rollout(stages: Stages, rolled_out: str) -> None:
    assert all_points(stages, rolled_out, step=1) > 25


@pytest.mark.parametrize("meanwhile", ["rolled back", "withdrawn"])
@pytest.mark.parametrize(("stage", "num_recorded"), [("deploy", 0), ("deploy", 1), ("shift", 0)])
def test_a_version_taken_out_before_its_traffic_is_recorded_is_recorded_no_more(
    stages: Stages, stage: str, num_recorded: int, meanwhile: str
) -> None:
    first, second, third = (stages.world.register() for _ in range(3))
    anew(stages, "ledger", first, second)
    if stage == "shift":
        stages.of().deploy(third)
    other = stages.of("other")
    happen = other.roll_back if meanwhile == "rolled back" else partial(other.withdraw, third)
    countdown = Countdown(num_recorded, happen, counting=("append",))
    with stages.counted(countdown) as rollout, pytest.raises(GateError, match="it was taken out, or another version"):
        STAGES[stage](rollout, version=third)
    champion = first if meanwhile == "rolled back" else second
    state = stages.world.state
    assert (state.champion, state.canary, state.shadow) == (champion, None, None)
    assert served(stages) == [(champion, "champion")]


def test_a_deployment_that_read_the_routes_before_a_rollback_reads_them_anew(stages: Stages) -> None:
    first, second, third = (stages.world.register() for _ in range(3))
    anew(stages, "ledger", first, second)
    countdown = Countdown(0, stages.of("rollback").roll_back, counting=("takeover",))
    with stages.counted(countdown) as rollout, pytest.raises(ServiceError, match="A retry reads the routes anew"):
        rollout.deploy(third)
    assert stages.of().deploy(third).champion == first


def test_a_canary_that_comes_after_the_routes_of_a_rollback_is_taken_out_again(stages: Stages) -> None:
    """A roll-back to the version that serves anyway changes no routes, so only the ledger tells."""
    stages = stages.with_strategy("canary")
    first, second = stages.champion(), stages.world.register()
    stages.of().deploy(None)
    countdown = Countdown(0, partial(stages.of("rollback").roll_back, first), counting=("set_share",))
    with stages.counted(countdown) as rollout, pytest.raises(GateError, match="must still be in the rollout"):
        rollout.shift(second, share_pct=10)
    assert (stages.world.state.champion, stages.world.state.canary) == (first, None)
    assert served(stages) == [(first, "champion")]


@pytest.mark.parametrize("how", ["rolled back", "withdrawn"])
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_canary_that_comes_between_the_routes_of_a_rollback_and_its_entry_is_taken_out(
    stages: Stages, how: str, *, is_killed: bool
) -> None:
    """Its entry is there before the ledger knows of the turn; who is killed after that takes it out the next time."""
    stages = stages.with_strategy("canary")
    first, second = stages.champion(), stages.world.register()
    stages.of().deploy(second)

    def end(rollout: Rollout) -> None:
        if how == "rolled back":
            rollout.roll_back(first)
        else:
            rollout.withdraw(second)

    countdown = Countdown(0, partial(stages.of().shift, second, share_pct=10), counting=("append",))
    with stages.counted(countdown, run="end") as rollout:
        if is_killed:
            broken = replace(rollout, target=Counted(rollout.target, Countdown(1, counting=("withdraw",))))
            with suppress(KilledError):
                end(broken)
        else:
            end(rollout)
    if is_killed:
        end(stages.of("end"))
    state = stages.world.state
    assert (state.champion, state.canary, state.shadow) == (first, None, None)
    assert served(stages) == [(first, "champion")]
    assert ("canary_step", second) in kinds(stages.world)


def test_a_rollout_that_began_after_a_rollback_goes_on_when_that_is_repeated(stages: Stages) -> None:
    first, second, third = (stages.world.register() for _ in range(3))
    anew(stages, "ledger", first, second)
    stages.of("back").roll_back()
    stages.of().deploy(third)
    stages.of("back").roll_back()
    assert (stages.world.state.champion, stages.world.state.shadow) == (first, third)


@pytest.mark.parametrize("is_cut_off", [False, True])
@pytest.mark.parametrize("rolled_out", ["new", "former"])
def test_a_rollback_that_is_killed_anywhere_in_a_rollout_goes_back_once(
    stages: Stages, rolled_out: str, *, is_cut_off: bool
) -> None:
    """From a promotion that was cut off before the ledger knew, back to its champion; else to the one before."""
    first, second, third = (stages.world.register() for _ in range(3))
    version = third if rolled_out == "new" else first
    for call in range(40):
        anew(stages, str(call), first, second)
        stages.of().deploy(version)
        stages.of().shift(version, share_pct=10)
        if is_cut_off:
            with pytest.raises(KilledError), stages.counted(Countdown(0, counting=("append",))) as rollout:
                rollout.promote(version)
            assert stages.world.state.champion == version
        was_killed = stages.is_killed(lambda rollout: rollout.roll_back(), before_call=call, run="back")
        entry = stages.of("back").roll_back()
        to, left = (second, version) if is_cut_off else (first, second)
        assert (entry.evidence["champion"], entry.evidence["previous"]) == (to, left), f"killed before call {call}"
        state = stages.world.state
        assert (state.champion, state.canary, stages.world.alias("champion")) == (to, None, to)
        assert [kind for kind, _ in kinds(stages.world)].count("roll_back") == 1
        if not was_killed:
            break
    assert not was_killed
    assert call > 1


def test_a_champion_that_was_never_promoted_has_one_before_it(stages: Stages) -> None:
    world = stages.world
    first, second = stages.champion(), world.register()
    for run in ("back-1", "back-2"):
        assert stages.of(run).roll_back(second).evidence["previous"] == first
        assert stages.of(f"{run}-again").roll_back().evidence["champion"] == first
    assert world.state.champion == world.alias("champion") == first


def test_deploying_a_champion_that_was_never_promoted_changes_nothing(stages: Stages) -> None:
    world = stages.world
    first, second = stages.champion(), world.register()
    gone_back = stages.of("back").roll_back(second)
    for call in range(40):
        assert stages.of().deploy(second).is_champion
        was_killed = stages.is_killed(lambda rollout: rollout.promote(second), before_call=call)
        assert stages.of().promote(second) == gone_back
        assert (world.state.loaded, world.alias("champion"), world.alias("challenger")) == (
            {first, second},
            second,
            None,
        )
        assert ("promote", second) not in kinds(world)
        if not was_killed:
            break
    assert not was_killed
    assert stages.of("back-again").roll_back().evidence["champion"] == first


def test_a_challenger_is_withdrawn_without_mlflow_and_the_next_try_mends_the_aliases(stages: Stages) -> None:
    world = stages.world
    first, second = stages.champion(), world.register()
    stages.of().deploy(None)
    stages.of().shift(second, share_pct=50)
    set_alias(world.mlflow_url, model=MODEL, alias="champion", version=second)  # as a promotion that was cut off may
    for _ in range(2):
        with pytest.raises(ServiceError, match=r"MLflow at .* must answer"):
            replace(stages.of(), tracking_uri="http://127.0.0.1:9").withdraw(second)
        assert (world.state.champion, world.state.canary, world.state.loaded) == (first, None, {first})
        assert served(stages) == [(first, "champion")]
    stages.of().withdraw(second)
    assert (world.alias("champion"), world.alias("challenger")) == (first, None)
    assert kinds(world).count(("roll_back", second)) == 1
