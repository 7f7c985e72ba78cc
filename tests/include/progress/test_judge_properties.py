"""Whatever the facts are: a judgement is made, a closed partition is left alone, and a repair never doubles a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from include.progress.facts import DAG_STAGES, DecisionFact, ModelFacts, PartitionFacts, Run, VersionFact
from include.progress.judge import Limits, judge
from include.progress.repair import plan_repairs
from include.progress.walk import CLOCK_SKEW

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIMITS = Limits(landing=HOUR, stage=HOUR, training=HOUR, rollout=HOUR, approval=HOUR, grace=timedelta(minutes=2))
STATES = ("queued", "running", "success", "failed")

moment = st.integers(0, 20).map(lambda minutes: T0 + timedelta(minutes=10 * minutes))
maybe = st.none() | moment
later = moment.map(lambda at: at + timedelta(minutes=200))  # than all facts


@st.composite
def run(draw: st.DrawFn, stage: str) -> Run:
    state, queued_at = draw(st.sampled_from(STATES)), draw(moment)
    ended = queued_at + timedelta(minutes=1) if state in ("success", "failed") else None
    return Run(dag_id=f"{stage}_m", run_id=f"r-{stage}", state=state, queued_at=queued_at, ended_at=ended)


@st.composite
def part(draw: st.DrawFn, key: str) -> PartitionFacts:
    stages = draw(st.sets(st.sampled_from(DAG_STAGES)))
    return PartitionFacts(
        key=key,
        due_at=draw(maybe),
        landed_at=draw(maybe),
        published_at=draw(maybe),
        features_at=draw(maybe),
        decision=draw(st.none() | st.builds(DecisionFact, at=moment, is_training=st.booleans(), summary=st.just("x"))),
        version=draw(
            st.none()
            | st.builds(
                VersionFact,
                version=st.just("1"),
                created_at=moment,
                is_challenger=st.booleans(),
                took_over_at=maybe,
                ended_at=maybe,
            )
        ),
        closed_at=draw(maybe),
        runs={stage: draw(run(stage)) for stage in stages},
    )


worlds = st.builds(
    ModelFacts,
    model=st.just("m"),
    partitions=st.tuples(part("2026-01"), part("2026-02"), part("2026-03")),
    newest_published=st.sampled_from([None, "2026-02", "2026-03"]),
    paused=st.none() | st.dictionaries(st.sampled_from(DAG_STAGES), st.booleans()),
)


@settings(max_examples=60, deadline=None)
@given(worlds, later)
def test_a_judgement_is_one_thing_and_says_what_to_do(facts: ModelFacts, now: datetime) -> None:
    for item in judge(facts, now=now, limits=LIMITS).partitions:
        assert not (item.stuck and item.waiting)
        if item.is_closed:
            assert (item.stuck, item.waiting) == (None, "")
        if item.stuck:
            assert item.stuck.command
            assert item.stuck.since <= now
            assert not (facts.paused is None and item.stuck.is_repairable)


@settings(max_examples=60, deadline=None)
@given(worlds, later)
def test_a_repair_never_doubles_a_run_and_never_deploys_an_old_version(facts: ModelFacts, now: datetime) -> None:
    for repair in plan_repairs(facts, judge(facts, now=now, limits=LIMITS)):
        stage = repair.dag_id.removesuffix("_m")
        known = next(found for found in facts.partitions if found.key == repair.partition)
        assert facts.paused is not None
        assert facts.paused[stage] is False
        assert stage not in known.runs or known.runs[stage].queued_at < repair.made_at - CLOCK_SKEW
        if stage == "deploy":
            assert known.version is not None
            assert known.version.is_challenger
        if stage == "train":
            assert facts.newest_published is None or repair.partition >= facts.newest_published
