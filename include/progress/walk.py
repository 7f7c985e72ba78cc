"""From what is known about a partition to the stages that it has reached, and the one that it waits for.

Evidence counts only if it is not older than what it rests on: a partition that was landed and published again begins
again. What Airflow has forgotten (its tables were cleaned, or restored from a backup) is taken from the state itself,
so that lost history alone never makes a partition run again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from include.progress.state import Stage

if TYPE_CHECKING:
    from include.progress.facts import DecisionFact, ModelFacts, PartitionFacts, Run, VersionFact

CLOCK_SKEW = timedelta(seconds=2)
"""By how much the clocks of the lake, the ledger, the registry and Airflow's database may differ."""

_NO_VERSION = "no version came of the training: the task `evaluate` of its run says which gate stopped it"


@dataclass(frozen=True, kw_only=True)
class Step:
    """The stage that a partition waits for.

    Args:
        stage: The stage.
        dag: Stage of the Dag that brings it.
        since: When the wait began.
        run: The newest run of that Dag which can bring it; None: there is none.
        producer: The run whose event should have started it; None: unknown, or it is started by a clock.
        of: What should have been taken up, in words.
        made_at: When that was made; a run that is older has not seen it.
    """

    stage: Stage
    dag: str
    since: datetime
    run: Run | None = None
    producer: Run | None = None
    of: str = ""
    made_at: datetime


@dataclass(kw_only=True)
class Walk:
    """How far a partition has come.

    Args:
        reached: Stage -> when.
        step: What it waits for; None: nothing.
        note: Why nothing more follows, if that is not obvious.
    """

    reached: dict[Stage, datetime] = field(default_factory=dict)
    step: Step | None = None
    note: str = ""


def walk(facts: ModelFacts, part: PartitionFacts) -> Walk:
    """Return the stages that a partition has reached, and the one that it waits for."""
    found = Walk()
    published = _until_published(part, found)
    if published is None:
        return found
    basis = _until_materialized(part, found, published=published)
    if basis is None:
        return found
    decision = _until_decided(part, found, basis=basis)
    if decision is None:
        return found
    if _is_since(part.closed_at, decision.at):
        found.reached[Stage.CLOSED] = part.closed_at or decision.at
    version = part.version if part.version and _is_since(part.version.created_at, decision.at) else None
    if version is not None:
        _after_training(part, found, version=version, decision=decision)
    elif decision.is_training:
        _until_trained(facts, part, found, decision=decision)
    else:
        _until_closed(facts, part, found, decision=decision)
    return found


def _until_published(part: PartitionFacts, found: Walk) -> datetime | None:
    run, published = part.runs.get("ingest"), part.published_at
    landed = part.landed_at or published
    if landed is None:
        if part.due_at is not None:
            found.step = Step(stage=Stage.LANDED, dag="ingest", since=part.due_at, made_at=part.due_at, run=run)
        return None
    found.reached[Stage.LANDED] = landed
    # A newer run that has not succeeded takes in what was landed again; what was published before still serves.
    is_again = run is not None and published is not None and run.state != "success" and run.queued_at > published
    if published is None or is_again:
        since = max(landed, run.queued_at) if run else landed
        found.step = Step(stage=Stage.INGESTED, dag="ingest", since=since, made_at=landed, run=run)
        return None
    found.reached[Stage.INGESTED] = published
    return published


def _until_materialized(part: PartitionFacts, found: Walk, *, published: datetime) -> datetime | None:
    """Return what a decision must not be older than; None if the features are not there yet."""
    run = _since(part.runs.get("materialize"), published)
    if run is None:
        decided = part.decision.at if part.decision else None
        # Without a run it is Airflow that has forgotten: features or a decision of the present rows prove that one was.
        proven = [at for at in (part.features_at, decided) if at is not None and _is_since(at, published)]
        if proven:
            found.reached[Stage.MATERIALIZED] = min(proven)
            return published
    elif run.state == "success":
        found.reached[Stage.MATERIALIZED] = run.ended_at or run.queued_at
        return run.queued_at
    found.step = Step(
        stage=Stage.MATERIALIZED,
        dag="materialize",
        since=run.queued_at if run else published,
        made_at=published,
        run=run,
        producer=part.runs.get("ingest"),
        of=f"the rows of {part.key} that were published",
    )
    return None


def _until_decided(part: PartitionFacts, found: Walk, *, basis: datetime) -> DecisionFact | None:
    if part.decision is not None and _is_since(part.decision.at, basis):
        found.reached[Stage.DECIDED] = part.decision.at
        return part.decision
    run = _since(part.runs.get("monitor"), basis)
    materialized = found.reached[Stage.MATERIALIZED]
    found.step = Step(
        stage=Stage.DECIDED,
        dag="monitor",
        since=run.queued_at if run else materialized,
        made_at=basis,
        run=run,
        producer=part.runs.get("materialize"),
        of=f"the features of {part.key} that were materialized",
    )
    return None


def _until_trained(facts: ModelFacts, part: PartitionFacts, found: Walk, *, decision: DecisionFact) -> None:
    run = _since(part.runs.get("train"), decision.at)
    if found.reached.get(Stage.CLOSED):
        found.note = _NO_VERSION
    elif run is not None and run.state == "success":
        found.reached[Stage.CLOSED] = run.ended_at or run.queued_at
        found.note = _NO_VERSION
    elif run is None and facts.newest_published is not None and facts.newest_published > part.key:
        found.reached[Stage.CLOSED] = decision.at
        found.note = f"superseded: only the newest partition may train, {facts.newest_published}"
    else:
        found.step = Step(
            stage=Stage.TRAINED,
            dag="train",
            since=run.queued_at if run else decision.at,
            made_at=decision.at,
            run=run,
            producer=_since(part.runs.get("monitor"), found.reached[Stage.INGESTED]),
            of=f"the decision on {part.key} ({decision.summary})",
        )


def _after_training(part: PartitionFacts, found: Walk, *, version: VersionFact, decision: DecisionFact) -> None:
    found.reached[Stage.TRAINED] = version.created_at
    if version.took_over_at is not None and _is_since(version.took_over_at, version.created_at):
        found.reached[Stage.DEPLOYED] = version.took_over_at
    if found.reached.get(Stage.CLOSED):
        return
    run = _since(part.runs.get("deploy"), version.created_at)
    if run is not None and run.state == "success":
        found.reached[Stage.CLOSED] = run.ended_at or run.queued_at
    elif run is None and version.ended_at is not None:
        found.reached[Stage.CLOSED] = version.ended_at
    elif run is None and not version.is_challenger:
        found.reached[Stage.CLOSED] = version.created_at
        found.note = f"version {version.version} is no challenger any more"
    else:
        found.step = Step(
            stage=Stage.CLOSED if Stage.DEPLOYED in found.reached else Stage.DEPLOYED,
            dag="deploy",
            since=run.queued_at if run else version.created_at,
            made_at=version.created_at,
            run=run,
            producer=_since(part.runs.get("train"), decision.at),
            of=f"version {version.version}, trained to {part.key}",
        )


def _until_closed(facts: ModelFacts, part: PartitionFacts, found: Walk, *, decision: DecisionFact) -> None:
    """Close what was kept; the decision itself is the end, and its run only has to say so."""
    run = _since(part.runs.get("monitor"), found.reached[Stage.INGESTED])
    found.note = decision.summary
    if found.reached.get(Stage.CLOSED):
        return
    if run is None or facts.paused is None:
        found.reached[Stage.CLOSED] = decision.at
    elif run.state == "success":
        found.reached[Stage.CLOSED] = max(run.ended_at or decision.at, decision.at)
    else:
        found.step = Step(stage=Stage.CLOSED, dag="monitor", since=run.queued_at, made_at=decision.at, run=run)


def _since(run: Run | None, moment: datetime) -> Run | None:
    """Return a run if it began late enough to have seen what was there at a moment."""
    return run if run is not None and _is_since(run.queued_at, moment) else None


def _is_since(at: datetime | None, moment: datetime) -> bool:
    return at is not None and at >= moment - CLOCK_SKEW
