from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.plan.facts import Champion, Facts, PastDecision, PastTraining
from include.plan.outlook import Line, Outlook, make_plan
from include.progress.state import ModelProgress, PartitionProgress, Reason, Stage, Stuck
from include.retraining.decision import History
from include.rollout.decision import Counters, RolloutState
from include.spec import load_spec

SPEC = load_spec("flight_delays")  # window 3, cool-down 2, 6 trainings a year, shadow 60, steps 10 and 50 % of 40
NOW = datetime(2013, 8, 1, tzinfo=UTC)
ROLLOUT = SPEC.rollout
TRAINED = PastTraining(window_end="2013-03", num_rows=70_000, num_epochs=6, seconds=8.2, device="cpu")


def part(key: str, reached: Stage | None, **more: Any) -> PartitionProgress:
    order = list(Stage)
    until = order[: order.index(reached) + 1] if reached else []
    return PartitionProgress(
        model=SPEC.name, partition=key, reached={stage: NOW if stage in until else None for stage in Stage}, **more
    )


def facts(*parts: PartitionProgress, **more: Any) -> Facts:
    """Return facts of a model whose champion was trained to 2013-03."""
    known: dict[str, Any] = {
        "spec": SPEC,
        "progress": ModelProgress(model=SPEC.name, partitions=parts),
        "history": History(published={f"2013-0{month}" for month in range(1, 7)}),
        "champion": Champion(version="1", since=NOW, window_end="2013-03"),
        "is_champion_known": True,
        "trainings": (),
    }
    return Facts(**(known | more))


def line(found: Facts, stage: str) -> Line:
    (only,) = (item for item in make_plan(found) if item.stage == stage)
    return only


def test_waiting_and_landed_partitions_are_grouped_by_what_they_wait_for() -> None:
    parts = (
        part("2013-05", Stage.CLOSED),
        part("2013-06", Stage.LANDED, waiting="ingest is queued"),
        part("2013-07", None, waiting="its files"),
        part("2013-08", None, waiting="its files"),
    )

    lines = [(item.stage, item.subject, item.outlook) for item in make_plan(facts(*parts))[:2]]

    assert lines == [
        ("ingest", "2013-06", Outlook.NEXT),
        ("ingest", "2013-07 to 2013-08 (2)", Outlook.WAITS),
    ]


def test_a_stuck_partition_comes_with_the_command_that_frees_it() -> None:
    stuck = Stuck(
        stage=Stage.MATERIALIZED,
        since=NOW,
        reason=Reason.DAG_PAUSED,
        detail="materialize_flight_delays is paused",
        command="./tradewind reconcile",
    )

    found = line(facts(part("2013-06", Stage.INGESTED, stuck=stuck)), "materialize")

    assert (found.outlook, found.command) == (Outlook.STUCK, "./tradewind reconcile")
    assert found.why == ("materialize_flight_delays is paused",)


def test_the_next_decision_is_about_the_oldest_partition_without_one() -> None:
    found = line(facts(part("2013-05", Stage.MATERIALIZED), part("2013-06", Stage.LANDED)), "monitor")

    assert (found.subject, found.outlook) == ("2013-05", Outlook.BLOCKED)
    assert found.what.startswith("decides next")
    assert "not the newest published partition, 2013-06" in found.why[0]


@pytest.mark.parametrize(("key", "outlook"), [("2013-05", Outlook.BLOCKED), ("2013-06", Outlook.NEXT)])
def test_the_cool_down_blocks_until_it_has_ended(key: str, outlook: Outlook) -> None:
    published = History(published={item for item in ("2013-03", "2013-04", "2013-05", "2013-06") if item <= key})

    found = line(facts(part(key, Stage.MATERIALIZED), history=published), "monitor")

    assert found.outlook is outlook
    assert any("next training after 2013-05" in reason for reason in found.why) is (outlook is Outlook.BLOCKED)


@pytest.mark.parametrize(("num_spent", "outlook"), [(5, Outlook.NEXT), (6, Outlook.BLOCKED)])
def test_the_budget_blocks_when_it_is_spent(num_spent: int, outlook: Outlook) -> None:
    trained = {"2012-08", "2012-09", "2012-10", "2012-11", "2012-12", "2013-01"}
    history = History(published={"2013-04", "2013-05", "2013-06"}, trained=sorted(trained)[:num_spent])

    assert line(facts(part("2013-06", Stage.MATERIALIZED), history=history), "monitor").outlook is outlook


def test_without_a_champion_a_published_window_trains_the_first_version() -> None:
    found = facts(part("2013-03", Stage.MATERIALIZED), champion=None, history=History(published=("2013-01", "2013-02")))

    assert line(found, "monitor").what == "decides next; it would train the first version"
    assert "golden requests" in line(found, "deploy").what


def test_without_a_champion_a_short_window_waits() -> None:
    found = facts(part("2013-02", Stage.MATERIALIZED), champion=None, history=History(published=("2013-01",)))

    assert line(found, "monitor").outlook is Outlook.BLOCKED
    assert line(found, "train").outlook is Outlook.BLOCKED


@pytest.mark.parametrize(
    "unknown",
    [
        {"champion": None, "is_champion_known": False},
        {"champion": Champion(version="1"), "is_champion_known": False},
        {"history": None},
    ],
)
def test_what_could_not_be_seen_is_unknown(unknown: dict[str, Any]) -> None:
    assert line(facts(part("2013-06", Stage.MATERIALIZED), **unknown), "monitor").outlook is Outlook.UNKNOWN


def test_nothing_follows_the_last_partition_of_the_source() -> None:
    assert line(facts(part("2013-12", Stage.CLOSED)), "monitor").outlook is Outlook.ENDED


def test_the_decision_before_is_told() -> None:
    before = PastDecision(partition="2013-05", verdict="keep", reason="neither loss nor drift", at=NOW)

    found = line(facts(part("2013-06", Stage.MATERIALIZED), decision=before), "monitor")

    assert found.why[-1] == "2013-05: keep, neither loss nor drift"


@pytest.mark.parametrize(
    ("trainings", "said"),
    [
        (None, "cost unknown: no jobs could be read"),
        ((), "cost unknown: no training was measured yet"),
        ((TRAINED,), "the one before took 8 s on 70,000 rows (cpu)"),
        (
            (TRAINED, replace(TRAINED, num_rows=82_000, seconds=10.6, device="cuda")),
            "the 2 before took 8 to 11 s on 70,000 to 82,000 rows (cpu, cuda)",
        ),
    ],
)
def test_the_cost_of_a_training_is_measured_or_unknown(trainings: tuple[PastTraining, ...] | None, said: str) -> None:
    assert line(facts(trainings=trainings), "train").what == f"{said}, in a process beside the task"


@pytest.mark.parametrize(("requests", "is_too_slow"), [(10_000, False), (9_000, True)])
def test_traffic_that_is_too_thin_for_a_step_is_said_before_it_fails(requests: int, *, is_too_slow: bool) -> None:
    routes = RolloutState(champion="1", age_s=1000.0, counters={("1", "champion"): Counters(requests=requests)})

    found = line(facts(routes=routes), "deploy")

    assert any("may take 120 s: inconclusive, roll_back" in reason for reason in found.why) is is_too_slow
    assert ("begin rollout.steps_pct with " in found.command) is is_too_slow


@pytest.mark.parametrize(
    ("routes", "why"),
    [
        (None, "the model server is silent"),
        (RolloutState(champion="1", age_s=9.0, counters={}), "no request since the routes changed"),
    ],
)
def test_unknown_traffic_is_said(routes: RolloutState | None, why: str) -> None:
    assert line(facts(routes=routes), "deploy").why == (f"how long that takes is unknown: {why}",)


def test_a_person_approves_first_if_the_spec_asks() -> None:
    asked = SPEC.model_copy(update={"rollout": ROLLOUT.model_copy(update={"approval": True})})

    assert line(facts(spec=asked), "deploy").what.startswith("a person approves, then shadow")


def test_the_time_does_not_matter_to_the_plan() -> None:
    parts = [part("2013-06", Stage.MATERIALIZED), part("2013-07", None)]
    later = [
        replace(item, reached={s: at and at + timedelta(days=9) for s, at in item.reached.items()}) for item in parts
    ]

    assert make_plan(facts(*parts)) == make_plan(facts(*later))
