"""Which version a run rolls out, on a real MLflow and a real ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from include.errors import NotFoundError
from include.registry.models import get_version, set_tag
from include.rollout.choosing import Choice, choose_version, supersede
from include.rollout.local import LocalTarget
from include.rollout.stages import Rollout
from include.spec import load_spec

if TYPE_CHECKING:
    from tests.running import RolloutWorld

MODEL = "flight_delays"


def rollout(world: RolloutWorld, run: str = "run-1") -> Rollout:
    return Rollout(
        spec=load_spec(MODEL),
        target=LocalTarget(client=world.server.client),
        ledger=world.ledger,
        tracking_uri=world.mlflow_url,
        actor="test",
        run_key=f"deploy:{run}",
    )


def champion(world: RolloutWorld, **how: Any) -> str:
    version = world.register(alias=None, **how)
    of = rollout(world, f"run-of-{version}")
    of.deploy(version, force=True)
    if world.state.champion not in (None, version):
        of.shift(version, share_pct=10)
    of.promote(version)
    return version


def test_the_named_version_is_chosen_whatever_the_alias_points_at(rollout_world: RolloutWorld) -> None:
    served = champion(rollout_world)
    named, newest = rollout_world.register(), rollout_world.register()
    assert choose_version(rollout(rollout_world), named).version == named
    chosen = choose_version(rollout(rollout_world), None)
    assert (chosen.version, chosen.champion) == (newest, served)


def test_without_a_version_and_a_challenger_nothing_is_chosen(rollout_world: RolloutWorld) -> None:
    with pytest.raises(NotFoundError, match="must have a version with the alias 'challenger'; got none"):
        choose_version(rollout(rollout_world), None)
    with pytest.raises(NotFoundError):
        choose_version(rollout(rollout_world), "999999")


def test_a_person_is_told_the_window_and_the_newest_gates(rollout_world: RolloutWorld) -> None:
    version = rollout_world.register(window_end="2013-04")
    unknown = Choice(
        version=version, champion=None, window="2013-04", gates=("the ledger has no gate of its training",)
    )
    assert choose_version(rollout(rollout_world), version) == unknown
    set_tag(rollout_world.mlflow_url, model=MODEL, version=version, key="window_start", value="2013-02")
    job_key = get_version(rollout_world.mlflow_url, model=MODEL, version=version).tags["job_key"]
    for verdict in ("fail", "pass"):
        rollout_world.ledger.append(
            model=MODEL,
            kind="gate",
            subject=job_key,
            evidence={"gates": [{"name": "min_validation_rows", "verdict": verdict, "reason": "900 held-out rows"}]},
            actor="test",
            key=f"gate-{verdict}",
        )
    chosen = choose_version(rollout(rollout_world), version)
    assert (chosen.window, chosen.gates) == ("2013-02 to 2013-04", ("min_validation_rows pass: 900 held-out rows",))


@pytest.mark.parametrize("window_end", ["2013-04", "2013-05"])
def test_a_version_is_not_too_late_for_a_champion_of_its_month_or_an_older_one(
    rollout_world: RolloutWorld, window_end: str
) -> None:
    version = rollout_world.register(window_end="2013-05")
    assert supersede(rollout(rollout_world), version) is None  # a first one
    served = champion(rollout_world, window_end=window_end)
    assert supersede(rollout(rollout_world), version) is None
    assert supersede(rollout(rollout_world), served) is None
    assert rollout_world.ledger.entries(MODEL, "superseded") == []
    assert rollout_world.alias("challenger") == version


def test_a_version_that_comes_too_late_is_recorded_once_and_is_no_challenger_any_more(
    rollout_world: RolloutWorld,
) -> None:
    late = rollout_world.register(window_end="2013-04")
    served = champion(rollout_world, window_end="2013-05")
    for _ in range(2):
        entry = supersede(rollout(rollout_world), late)
        assert entry is not None
        assert entry.evidence == {"by": served, "window_end": "2013-04", "champion_window_end": "2013-05"}
    assert rollout_world.ledger.entries(MODEL, "superseded") == [entry]
    assert rollout_world.alias("challenger") is None
    assert (rollout_world.state.champion, rollout_world.state.shadow) == (served, None)


def test_what_was_superseded_leaves_a_newer_challenger_alone(rollout_world: RolloutWorld) -> None:
    late = rollout_world.register(window_end="2013-04")
    champion(rollout_world, window_end="2013-05")
    newer = rollout_world.register(window_end="2013-06")
    assert supersede(rollout(rollout_world), late) is not None
    assert rollout_world.alias("challenger") == newer
