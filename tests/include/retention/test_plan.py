"""Whatever the world looks like, nothing that is needed goes, everything else that is old does, and twice is once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.retention.plan import Held, Kind, Plan, World, plan_retention
from include.spec import RetentionSpec

NOW = datetime(2026, 6, 1, tzinfo=UTC)
TABLES = ("flights", "weather")
POLICY = RetentionSpec(
    landing_days=10,
    predictions_days=20,
    reports_days=20,
    quarantine_days=20,
    trainings_days=15,
    versions_days=30,
    min_versions=2,
    runs_days=25,
)
LIMITS = {
    Kind.LANDING: 10,
    Kind.PREDICTIONS: 20,
    Kind.REPORT: 20,
    Kind.QUARANTINE: 20,
    Kind.JOB: 15,
    Kind.SNAPSHOT: 15,
    Kind.VERSION: 30,
    Kind.RUN: 25,
}
PARTITIONS = ("2026-01", "2026-02", "2026-03")

age = st.integers(0, 60).map(lambda days: NOW - timedelta(days=days, hours=1))


def needs_of(kind: Kind) -> st.SearchStrategy[frozenset[tuple[Kind, str]]]:
    """Return what something may need; some of it is not there."""
    name = st.integers(0, 6).map(str)
    by_kind = {
        Kind.VERSION: st.tuples(st.sampled_from([Kind.JOB, Kind.SNAPSHOT, Kind.RUN]), name),
        Kind.JOB: st.tuples(st.just(Kind.SNAPSHOT), name),
    }
    return st.frozensets(by_kind[kind], max_size=3) if kind in by_kind else st.just(frozenset())


@st.composite
def held(draw: st.DrawFn, kind: Kind) -> Held:
    pins = st.dictionaries(st.sampled_from(TABLES), st.integers(0, 9))
    has_partition = kind in (Kind.LANDING, Kind.REPORT, Kind.QUARANTINE, Kind.RUN)
    return Held(
        kind=kind,
        key=str(draw(st.integers(0, 6))),
        at=draw(age),
        partition=draw(st.sampled_from(PARTITIONS)) if has_partition else "",
        needs=draw(needs_of(kind)),
        pins=draw(pins) if kind in (Kind.VERSION, Kind.SNAPSHOT) else {},
    )


worlds = st.builds(
    World,
    model=st.just("m"),
    held=st.lists(st.sampled_from(Kind).flatmap(held), max_size=24, unique_by=lambda item: (item.kind, item.key)).map(
        tuple
    ),
    in_use=st.frozensets(st.integers(0, 6).map(str), max_size=3),
    published=st.dictionaries(st.sampled_from(PARTITIONS), age),
    open_partitions=st.frozensets(st.sampled_from(PARTITIONS), max_size=2),
    is_training=st.booleans(),
)


def kept_of(world: World, plan: Plan) -> list[Held]:
    going = {(removal.kind, removal.key) for removal in plan.removals}
    return [item for item in world.held if (item.kind, item.key) not in going]


def is_protected(item: Held, world: World) -> bool:
    """Say again, in other words than the plan's, what forbids the removal of an old thing."""
    newest = sorted(int(other.key) for other in world.held if other.kind is Kind.VERSION)[-2:]
    by_kind = {
        Kind.VERSION: item.key in world.in_use or (item.kind is Kind.VERSION and int(item.key) in newest),
        Kind.JOB: world.is_training,
        Kind.SNAPSHOT: world.is_training,
        Kind.LANDING: item.partition in world.open_partitions
        or item.partition not in world.published
        or world.published[item.partition] < item.at,
        Kind.PREDICTIONS: False,
    }
    return by_kind.get(item.kind, item.partition in world.open_partitions)


@settings(max_examples=150, deadline=None)
@given(worlds)
def test_nothing_that_is_needed_goes_and_everything_else_that_is_old_does(world: World) -> None:
    plan = plan_retention(world, POLICY, now=NOW)
    kept = kept_of(world, plan)
    going = {(removal.kind, removal.key) for removal in plan.removals}

    needed = {need for item in kept for need in item.needs}
    assert not going & needed
    for item in world.held:
        is_old = NOW - item.at > timedelta(days=LIMITS[item.kind])
        is_going = (item.kind, item.key) in going
        assert is_going == (is_old and not is_protected(item, world) and (item.kind, item.key) not in needed)


@settings(max_examples=50, deadline=None)
@given(worlds)
def test_every_version_that_something_kept_pins_stays_readable(world: World) -> None:
    plan = plan_retention(world, POLICY, now=NOW)

    assert plan.pins is not None
    wanted = {(table, v) for item in kept_of(world, plan) for table, v in (item.pins or {}).items()}
    assert {(table, v) for table, versions in plan.pins.items() for v in versions} == wanted


@settings(max_examples=50, deadline=None)
@given(worlds)
def test_twice_is_once(world: World) -> None:
    plan = plan_retention(world, POLICY, now=NOW)
    after = replace(world, held=tuple(kept_of(world, plan)))

    again = plan_retention(after, POLICY, now=NOW)

    # Removing versions never makes an older one the newest, so nothing more may go.
    assert again.removals == ()
    assert again.pins == plan.pins


@settings(max_examples=50, deadline=None)
@given(worlds, st.data())
def test_no_policy_removes_nothing(world: World, data: st.DataObject) -> None:
    never = RetentionSpec.model_validate({name: None for name in RetentionSpec.model_fields if name.endswith("_days")})

    assert plan_retention(world, never, now=NOW).removals == ()


def test_a_lock_file_that_cannot_be_read_keeps_every_version_of_every_table() -> None:
    unread = Held(kind=Kind.VERSION, key="1", at=NOW, pins=None)

    assert plan_retention(World(model="m", held=(unread,)), POLICY, now=NOW).pins is None


@pytest.mark.parametrize(("days", "goes"), [(30, False), (31, True)])
def test_a_version_goes_after_its_days_and_not_before(days: int, goes: bool) -> None:
    old = Held(kind=Kind.VERSION, key="1", at=NOW - timedelta(days=days))
    newer = [Held(kind=Kind.VERSION, key=str(number), at=NOW) for number in (2, 3)]

    plan = plan_retention(World(model="m", held=(old, *newer)), POLICY, now=NOW)

    assert [removal.key for removal in plan.removals] == (["1"] if goes else [])
