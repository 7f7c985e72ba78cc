"""What a lost event should have started is started once, in order, and people are told once."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from include.progress.facts import DAG_STAGES, ModelFacts, PartitionFacts
from include.progress.judge import Limits, judge
from include.progress.repair import Repair, do_repair, plan_repairs
from include.progress.state import ModelProgress, PartitionProgress, Reason, Stage, Stuck
from include.progress.telling import Teller
from include.rollout.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIMITS = Limits(landing=HOUR, stage=HOUR, training=HOUR, rollout=HOUR, approval=HOUR, grace=timedelta(minutes=2))


@dataclass
class FakeAirflow:
    """Keeps runs as Airflow's database does: one a name."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_up: bool = True

    def dag_runs(self, dag_ids: Sequence[str], *, max_runs: int) -> list[dict[str, Any]]:
        return [run for run in self.runs if run["dag_id"] in dag_ids][:max_runs]

    def trigger(self, dag_id: str, *, run_id: str, partition: str, run_after: datetime) -> bool:
        if not self.is_up:
            raise ConnectionError
        with self.lock:
            if any(run.get("run_id") == run_id for run in self.runs):
                return False
            self.add(dag_id, partition, queued_at=T0 + HOUR, run_id=run_id, run_after=run_after)
            return True

    def add(self, dag_id: str, partition: str, *, queued_at: datetime, **more: Any) -> None:
        self.runs.append({"dag_id": dag_id, "partition_key": partition, "queued_at": queued_at.isoformat(), **more})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(path=tmp_path / "ledger.sqlite")


def published(key: str, minutes: int) -> PartitionFacts:
    at = T0 + timedelta(minutes=minutes)
    return PartitionFacts(key=key, landed_at=at, published_at=at)


def planned(*parts: PartitionFacts, paused: frozenset[str] = frozenset(), minutes: int = 30) -> tuple[Repair, ...]:
    facts = ModelFacts(model="m", partitions=parts, paused={stage: stage in paused for stage in DAG_STAGES})
    return plan_repairs(facts, judge(facts, now=T0 + timedelta(minutes=minutes), limits=LIMITS))


def test_lost_events_are_repaired_in_the_order_of_their_partitions() -> None:
    found = planned(published("2026-02", 1), published("2026-01", 5), published("2026-03", 3))

    assert [repair.partition for repair in found] == ["2026-01", "2026-02", "2026-03"]
    assert [repair.run_after for repair in found] == sorted(repair.run_after for repair in found)
    # Before whatever was queued since the first of them was lost.
    assert max(repair.run_after for repair in found) < T0 + timedelta(minutes=1, seconds=1)
    assert {repair.dag_id for repair in found} == {"materialize_m"}


def test_nothing_is_planned_within_the_grace_period_or_for_a_paused_dag() -> None:
    assert planned(published("2026-01", 0), minutes=2) == ()
    assert planned(published("2026-01", 0), paused=frozenset({"materialize"})) == ()


def test_a_name_follows_from_what_was_lost_alone() -> None:
    first, again = (planned(published("2026-01", 0), minutes=minutes)[0] for minutes in (10, 60))
    landed_again = planned(published("2026-01", 9), minutes=60)[0]

    assert first.run_id == again.run_id
    assert first.run_id != landed_again.run_id


def test_many_repairs_at_once_start_one_run(ledger: Ledger) -> None:
    airflow, (repair,) = FakeAirflow(), planned(published("2026-01", 0))
    started: list[bool] = []

    def do() -> None:
        started.append(do_repair(repair, api=airflow, ledger=ledger, actor="test"))

    threads = [threading.Thread(target=do) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(started) == [False] * 7 + [True]
    assert len(airflow.runs) == 1
    (entry,) = ledger.entries("m", "reconcile")
    assert (entry.subject, entry.evidence["dag_id"]) == ("2026-01", "materialize_m")


def test_an_event_that_was_only_slow_is_not_repaired(ledger: Ledger) -> None:
    airflow, (repair,) = FakeAirflow(), planned(published("2026-01", 0))
    airflow.add("materialize_m", "2026-01", queued_at=T0 + timedelta(minutes=29))

    assert not do_repair(repair, api=airflow, ledger=ledger, actor="test")
    assert len(airflow.runs) == 1
    assert ledger.entries() == []


def test_a_run_from_before_the_loss_or_of_another_partition_does_not_count(ledger: Ledger) -> None:
    airflow, (repair,) = FakeAirflow(), planned(published("2026-01", 10))
    airflow.add("materialize_m", "2026-01", queued_at=T0)
    airflow.add("materialize_m", "2026-02", queued_at=T0 + HOUR)

    assert do_repair(repair, api=airflow, ledger=ledger, actor="test")


def test_a_reconciler_that_died_before_the_start_is_made_good(ledger: Ledger) -> None:
    airflow, (repair,) = FakeAirflow(is_up=False), planned(published("2026-01", 0))
    with pytest.raises(ConnectionError):
        do_repair(repair, api=airflow, ledger=ledger, actor="test")

    airflow.is_up = True

    assert do_repair(repair, api=airflow, ledger=ledger, actor="test")
    assert len(ledger.entries("m", "reconcile")) == 1


STUCK = PartitionProgress(
    model="m",
    partition="2026-01",
    reached={Stage.LANDED: T0},
    stuck=Stuck(
        stage=Stage.INGESTED,
        since=T0,
        reason=Reason.TASK_FAILED,
        detail="ingest_m.validate failed: 3 rows",
        command="clear it",
        url="http://a/t",
    ),
)
GOES_ON = replace(STUCK, reached={Stage.LANDED: T0, Stage.INGESTED: T0}, stuck=None)


def told(teller: Teller, *parts: PartitionProgress, silent: tuple[str, ...] = ()) -> list[str]:
    before = {entry.key for entry in teller.ledger.entries("m", "alert")}
    teller.tell_stuck(ModelProgress(model="m", partitions=parts, silent=silent))
    return [e.evidence["text"] for e in teller.ledger.entries("m", "alert") if e.key not in before]


def test_a_stuck_partition_is_told_once_and_once_more_when_it_goes_on(ledger: Ledger) -> None:
    teller = Teller(ledger=ledger, poster=None, actor="test")

    (text,) = told(teller, STUCK)

    assert text == (
        "m 2026-01 is stuck before ingested, since 2026-01-01 00:00 UTC: task failed.\n"
        "ingest_m.validate failed: 3 rows.\nDo: clear it\nhttp://a/t"
    )
    assert told(teller, STUCK) == []
    assert told(teller, GOES_ON, silent=("Airflow",)) == []
    assert told(teller, GOES_ON) == ["m 2026-01 goes on: ingested."]
    assert told(teller, GOES_ON) == []


def test_a_trouble_that_comes_back_is_told_again(ledger: Ledger) -> None:
    teller = Teller(ledger=ledger, poster=None, actor="test")
    assert STUCK.stuck
    again = replace(STUCK, stuck=replace(STUCK.stuck, since=T0 + HOUR))

    assert len(told(teller, STUCK)) == 1
    first, second = told(teller, again)

    assert "is stuck before" in first
    assert "stuck for another reason now" in second


def test_partitions_that_wait_for_the_same_thing_are_told_together(ledger: Ledger) -> None:
    teller = Teller(ledger=ledger, poster=None, actor="test")
    assert STUCK.stuck
    late = [
        replace(
            STUCK, partition=f"2026-0{n}", stuck=replace(STUCK.stuck, stage=Stage.LANDED, reason=Reason.LANDING_LATE)
        )
        for n in (2, 3, 4)
    ]

    text, other = told(teller, *late, STUCK)

    assert "2026-02 is stuck" in text
    assert "So are 2 later partitions." in text
    assert "task failed" in other
    # An older one that joins them says nothing about those that wait on.
    (oldest,) = told(teller, replace(late[0], partition="2026-00"), *late, STUCK)
    assert "So are 3 later partitions." in oldest
    assert "goes on" not in oldest
