"""Which partition is stuck and why, as a table of scripted facts; no clock, no server."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from include.progress.facts import (
    DAG_STAGES,
    DecisionFact,
    ModelFacts,
    PartitionFacts,
    RolloutFacts,
    Run,
    Task,
    VersionFact,
)
from include.progress.judge import AWAITING, Limits, judge, limits_of
from include.progress.state import PartitionProgress, Reason, Stage, Stuck
from include.spec import load_spec

T0 = datetime(2026, 1, 1, tzinfo=UTC)
GRACE, STAGE, LANDING, APPROVAL = 2, 60, 24 * 60, 12 * 60
LIMITS = Limits(
    landing=timedelta(minutes=LANDING),
    stage=timedelta(minutes=STAGE),
    training=timedelta(minutes=2 * STAGE),
    rollout=timedelta(minutes=3 * STAGE),
    approval=timedelta(minutes=APPROVAL),
    grace=timedelta(minutes=GRACE),
)
RUNNING = dict.fromkeys(DAG_STAGES, False)


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def run(stage: str, state: str, minutes: float, *tasks: Task) -> Run:
    ended = at(minutes + 1) if state in ("success", "failed") else None
    return Run(
        dag_id=f"{stage}_m", run_id=f"r{minutes}", state=state, queued_at=at(minutes), ended_at=ended, tasks=tasks
    )


def runs(**of: Run) -> dict[str, Run]:
    return dict(of)


def part(**changes: object) -> PartitionFacts:
    return replace(PartitionFacts(key="2026-01", due_at=at(0)), **changes)  # type: ignore[arg-type]


LANDED = part(landed_at=at(10))
INGESTED = part(landed_at=at(10), published_at=at(20), runs=runs(ingest=run("ingest", "success", 11)))
MATERIALIZED = replace(
    INGESTED, features_at=at(30), runs={**INGESTED.runs, "materialize": run("materialize", "success", 21)}
)
KEEP = DecisionFact(at=at(40), is_training=False, summary="keep: nothing drifted")
RETRAIN = DecisionFact(at=at(40), is_training=True, summary="retrain: it would win")
KEPT = replace(MATERIALIZED, decision=KEEP, runs={**MATERIALIZED.runs, "monitor": run("monitor", "success", 39)})
FIRED = replace(KEPT, decision=RETRAIN)
VERSION = VersionFact(version="2", created_at=at(50), is_challenger=True)
TRAINED = replace(FIRED, version=VERSION, runs={**FIRED.runs, "train": run("train", "success", 41)})
DEPLOYED = replace(
    TRAINED,
    version=replace(VERSION, is_challenger=False, took_over_at=at(60), ended_at=at(60)),
    runs={**TRAINED.runs, "deploy": run("deploy", "success", 59)},
)


def judged(
    item: PartitionFacts, minutes: float, *, paused: dict[str, bool] | None = RUNNING, **facts: object
) -> PartitionProgress:
    known = ModelFacts(
        model="m", partitions=(item,), paused=paused, airflow_url="http://a", landing="/l", newest_published="2026-01"
    )
    progress = judge(replace(known, **facts), now=at(minutes), limits=LIMITS)  # type: ignore[arg-type]
    return progress.partitions[0]


def stuck(item: PartitionFacts, minutes: float, **facts: object) -> Stuck:
    found = judged(item, minutes, **facts).stuck  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("item", "furthest"),
    [
        (part(), None),
        (LANDED, Stage.LANDED),
        (INGESTED, Stage.INGESTED),
        (MATERIALIZED, Stage.MATERIALIZED),
        (FIRED, Stage.DECIDED),
        (TRAINED, Stage.TRAINED),
        (KEPT, Stage.CLOSED),
        (DEPLOYED, Stage.CLOSED),
    ],
)
def test_the_furthest_stage_is_named(item: PartitionFacts, furthest: Stage | None) -> None:
    assert judged(item, 0).furthest is furthest


@pytest.mark.parametrize(
    ("item", "since", "limit", "reason", "stage"),
    [
        (part(), 0, LANDING, Reason.LANDING_LATE, Stage.LANDED),
        (replace(LANDED, runs=runs(ingest=run("ingest", "queued", 11))), 11, STAGE, Reason.RUN_QUEUED, Stage.INGESTED),
        (replace(LANDED, runs=runs(ingest=run("ingest", "running", 11))), 11, STAGE, Reason.RUN_SLOW, Stage.INGESTED),
        (INGESTED, 20, GRACE, Reason.EVENT_LOST, Stage.MATERIALIZED),
        (MATERIALIZED, 22, GRACE, Reason.EVENT_LOST, Stage.DECIDED),
        (FIRED, 40, GRACE, Reason.EVENT_LOST, Stage.TRAINED),
        (TRAINED, 50, GRACE, Reason.EVENT_LOST, Stage.DEPLOYED),
        (
            replace(FIRED, runs={**FIRED.runs, "train": run("train", "running", 41)}),
            41,
            2 * STAGE,
            Reason.RUN_SLOW,
            Stage.TRAINED,
        ),
        (
            replace(TRAINED, runs={**TRAINED.runs, "deploy": run("deploy", "running", 51)}),
            51,
            3 * STAGE,
            Reason.RUN_SLOW,
            Stage.DEPLOYED,
        ),
    ],
)
def test_a_stage_is_missed_after_its_limit_and_not_before(
    item: PartitionFacts, since: int, limit: int, reason: Reason, stage: Stage
) -> None:
    assert judged(item, since + limit).stuck is None
    assert judged(item, since + limit).waiting

    found = stuck(item, since + limit + 0.1)

    assert (found.reason, found.stage, found.since) == (reason, stage, at(since))
    assert found.command
    assert found.is_repairable == (reason is Reason.EVENT_LOST)


@pytest.mark.parametrize("item", [KEPT, DEPLOYED])
def test_a_closed_partition_is_never_stuck(item: PartitionFacts) -> None:
    found = judged(item, 10**6)

    assert found.is_closed
    assert (found.stuck, found.waiting) == (None, "")


def test_a_failed_task_is_stuck_at_once_with_what_it_said() -> None:
    task = Task(task_id="validate", state="failed", url="http://a/t", message="DataQualityError: 3 fail")
    found = stuck(replace(LANDED, runs=runs(ingest=run("ingest", "failed", 11, task))), 12.1)

    assert found.reason is Reason.TASK_FAILED
    assert found.detail == "ingest_m.validate failed: DataQualityError: 3 fail"
    assert found.url == "http://a/t"
    assert "clear ingest_m.validate" in found.command


def test_of_several_failed_tasks_the_last_one_is_to_be_cleared() -> None:
    verdict = Task(task_id="settled_10", state="failed", since=at(52))
    roll_back = Task(task_id="roll_back", state="failed", since=at(53))
    failed = run("deploy", "failed", 51, roll_back, verdict)

    assert "deploy_m.roll_back" in stuck(replace(TRAINED, runs={**TRAINED.runs, "deploy": failed}), 55).command


def test_a_version_that_was_rolled_back_closes_its_month() -> None:
    failed = run("deploy", "failed", 51, Task(task_id="settled_10", state="failed"))
    rolled_back = replace(
        TRAINED, version=replace(VERSION, ended_at=at(52)), closed_at=at(53), runs={**TRAINED.runs, "deploy": failed}
    )

    assert judged(rolled_back, 10**6).is_closed


@pytest.mark.parametrize(
    ("item", "stage", "since"),
    [(INGESTED, "materialize", 20), (MATERIALIZED, "monitor", 22), (FIRED, "train", 40), (TRAINED, "deploy", 50)],
)
def test_a_paused_consumer_is_named_and_not_repaired(item: PartitionFacts, stage: str, since: int) -> None:
    paused = {**RUNNING, stage: True}
    assert judged(item, since + GRACE, paused=paused).stuck is None

    found = stuck(item, since + GRACE + 0.1, paused=paused)

    assert found.reason is Reason.DAG_PAUSED
    assert f"{stage}_m is paused" in found.detail
    assert found.command == "./tradewind reconcile m --unpause"
    assert not found.is_repairable


def test_an_event_is_not_lost_while_its_producer_works_or_has_failed() -> None:
    deciding = replace(FIRED, runs={**FIRED.runs, "monitor": run("monitor", "running", 39)})
    failed = replace(FIRED, runs={**FIRED.runs, "monitor": run("monitor", "failed", 39)})

    assert judged(deciding, 45).stuck is None
    assert stuck(failed, 45).reason is Reason.TASK_FAILED
    assert "monitor_m" in stuck(failed, 45).detail


def test_a_run_from_before_the_rows_were_published_again_does_not_count() -> None:
    again = replace(DEPLOYED, published_at=at(100), landed_at=at(90))

    found = stuck(again, 103)

    assert (found.reason, found.stage) == (Reason.EVENT_LOST, Stage.MATERIALIZED)


def test_history_that_airflow_has_forgotten_is_no_lost_event() -> None:
    """As after `airflow db clean`, or a restored backup: the state itself says that all of it was done."""
    for item in (KEPT, DEPLOYED):
        assert judged(replace(item, runs={}), 10**6).is_closed
    assert judged(replace(MATERIALIZED, runs={}), 30).furthest is Stage.MATERIALIZED


def test_an_older_decision_to_train_is_superseded() -> None:
    found = judged(FIRED, 10**6, newest_published="2026-02")

    assert found.is_closed
    assert "superseded" in found.note


def test_a_version_that_is_no_challenger_any_more_is_not_deployed() -> None:
    found = judged(replace(TRAINED, version=replace(VERSION, is_challenger=False)), 10**6)

    assert found.is_closed
    assert found.stuck is None


def test_a_version_that_a_gate_stopped_closes_its_month() -> None:
    found = judged(replace(FIRED, runs={**FIRED.runs, "train": run("train", "success", 41)}), 10**6)

    assert found.is_closed
    assert "gate" in found.note


def test_approval_is_asked_for_with_a_limit_of_its_own() -> None:
    asked = Task(task_id="approve", state=AWAITING, since=at(52), url="http://a/approve")
    waiting = replace(TRAINED, runs={**TRAINED.runs, "deploy": run("deploy", "running", 51, asked)})

    assert judged(waiting, 52 + APPROVAL).waiting == "approval by a person"
    found = stuck(waiting, 52 + APPROVAL + 1)
    assert (found.reason, found.url) == (Reason.APPROVAL, "http://a/approve")


def test_a_canary_without_traffic_is_told_from_a_slow_one() -> None:
    waiting = replace(TRAINED, runs={**TRAINED.runs, "deploy": run("deploy", "running", 51)})
    rollout = RolloutFacts(version="2", role="canary", num_requests=3, num_needed=40)

    found = stuck(waiting, 51 + 3 * STAGE + 1, rollout=rollout)

    assert found.reason is Reason.NO_TRAFFIC
    assert "canary v2 has 3 of 40 requests" in found.detail
    enough = replace(rollout, num_requests=40)
    assert stuck(waiting, 51 + 3 * STAGE + 1, rollout=enough).reason is Reason.RUN_SLOW


def test_a_queued_run_names_what_it_waits_behind() -> None:
    queued = replace(INGESTED, runs={**INGESTED.runs, "materialize": run("materialize", "queued", 21)})
    other = replace(MATERIALIZED, key="2025-12", runs={"materialize": run("materialize", "running", 5)})

    found = stuck(queued, 21 + STAGE + 1, partitions=(queued, other))

    assert found.reason is Reason.RUN_QUEUED
    assert "behind r5 (2025-12)" in found.detail


def test_without_airflow_the_state_is_judged_and_the_reason_is_unknown() -> None:
    assert judged(KEPT, 10**6, paused=None).is_closed
    found = stuck(replace(INGESTED, runs={}), 20 + STAGE + 1, paused=None)
    assert found.reason is Reason.UNKNOWN
    assert "Airflow does not answer" in found.detail
    assert found.command == "./tradewind doctor"


def test_a_missing_dag_points_to_the_check() -> None:
    found = stuck(INGESTED, 21, paused={"ingest": False})

    assert "no Dag materialize_m" in found.detail
    assert found.command == "./tradewind check m"


def test_replayed_history_that_nothing_waits_for_is_not_late() -> None:
    found = judged(part(due_at=None), 10**6)

    assert (found.stuck, found.furthest) == (None, None)


def test_limits_give_trainings_and_canaries_their_own_time() -> None:
    spec = load_spec("flight_delays")
    limits = limits_of(spec)

    assert limits.of(Stage.MATERIALIZED) == timedelta(seconds=spec.progress.stage_s)
    assert limits.of(Stage.TRAINED) == timedelta(seconds=spec.progress.stage_s + spec.training.timeout_s)
    steps = len(spec.rollout.steps_pct) + 1
    assert limits.of(Stage.DEPLOYED) == timedelta(seconds=spec.progress.stage_s + steps * spec.rollout.step_timeout_s)
