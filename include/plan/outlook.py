"""What the next runs would do, and why: a pure function of what is known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from include import partitions
from include.progress.state import Stage
from include.retraining.decision import History, find_blocks, trainings_of_year
from include.rollout.planning import plan_rollout
from include.training.profiles import resolve_profile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.plan.facts import Facts, PastTraining
    from include.progress.state import PartitionProgress
    from include.rollout.planning import StagePlan

_NEXT_DAG = {
    None: "ingest",
    Stage.LANDED: "ingest",
    Stage.INGESTED: "materialize",
    Stage.MATERIALIZED: "monitor",
    Stage.DECIDED: "train",
    Stage.TRAINED: "deploy",
    Stage.DEPLOYED: "deploy",
}
_DECIDED = (Stage.DECIDED, Stage.TRAINED, Stage.DEPLOYED, Stage.CLOSED)


class Outlook(StrEnum):
    """What is to be expected."""

    NEXT = "next"  # it happens by itself
    WAITS = "waits"  # for something outside
    BLOCKED = "blocked"  # a limit of the spec forbids it now
    STUCK = "stuck"  # a command is needed
    IF_SO = "if so"  # only if a decision calls for it
    ENDED = "ended"  # nothing follows
    UNKNOWN = "unknown"  # whoever knows it does not answer


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that the next runs would do, or why they would not.

    Args:
        stage: The stage of the Dag.
        subject: Partition, partitions or version.
        outlook: What is to be expected.
        what: What would be done.
        why: The reasons, most important first.
        command: What to do about it; empty when nothing is to be done.
    """

    stage: str
    subject: str
    outlook: Outlook
    what: str
    why: tuple[str, ...] = ()
    command: str = ""


def make_plan(facts: Facts) -> tuple[Line, ...]:
    """Return what the next runs of a model would do, in the order of the stages."""
    decision = _decision_line(facts)
    forbidden = decision.outlook in (Outlook.BLOCKED, Outlook.ENDED)
    training = _training_line(facts, outlook=decision.outlook if forbidden else Outlook.IF_SO)
    return (*_partition_lines(facts), decision, training, _deploy_line(facts))


def _partition_lines(facts: Facts) -> list[Line]:
    """Return a line for each stage and reason that partitions wait for, the oldest partition's words in it.

    The partition that is decided on next has a line of its own, unless it is stuck.
    """
    decided, is_there = _next_decided(facts)
    groups: dict[tuple[str, ...], list[PartitionProgress]] = {}
    for item in facts.progress.partitions:
        is_told = is_there and item.partition == decided and not item.stuck
        if not item.is_closed and not is_told:
            reason = item.stuck.reason if item.stuck else item.waiting
            groups.setdefault((str(item.furthest), reason), []).append(item)
    return [_partition_line(items, marker=facts.spec.source.marker) for items in groups.values()]


def _partition_line(items: Sequence[PartitionProgress], *, marker: str) -> Line:
    first, last = items[0], items[-1]
    is_landed = first.furthest is not None
    what, outlook, command = f"{first.furthest}, goes on", Outlook.NEXT, ""
    why = first.waiting
    if first.stuck:
        what, outlook = f"not {first.stuck.stage}", Outlook.STUCK
        why, command = first.stuck.detail, first.stuck.command
    elif not is_landed:
        what, outlook = "waits for its files", Outlook.WAITS
        why = f"the marker {marker} is not in its landing folder"
    return Line(
        stage=_NEXT_DAG[first.furthest],
        subject=first.partition if len(items) == 1 else f"{first.partition} to {last.partition} ({len(items)})",
        outlook=outlook,
        what=what,
        why=(why,) if why else (),
        command=command,
    )


def _next_decided(facts: Facts) -> tuple[str | None, bool]:
    """Return the partition that the next decision is about, and whether everything for it is there."""
    known = facts.progress.partitions
    undecided = [item for item in known if item.furthest not in _DECIDED]
    if undecided:
        return undecided[0].partition, undecided[0].furthest is Stage.MATERIALIZED
    source = facts.spec.source
    follows = partitions.shift(known[-1].partition, 1) if known else source.first_partition
    return (None if source.last_partition and follows > source.last_partition else follows), False


def _decision_line(facts: Facts) -> Line:
    partition, is_there = _next_decided(facts)
    if partition is None:
        end = facts.spec.source.last_partition
        return Line(stage="monitor", subject="-", outlook=Outlook.ENDED, what=f"the source ends with {end}")
    before = (
        (f"{facts.decision.partition}: {facts.decision.verdict}, {facts.decision.reason}",) if facts.decision else ()
    )
    when = "decides next" if is_there else "decides once its features are there"
    outlook, what, why = _could_train(facts, partition)
    return Line(stage="monitor", subject=partition, outlook=outlook, what=f"{when}; {what}", why=(*why, *before))


def _could_train(facts: Facts, partition: str) -> tuple[Outlook, str, tuple[str, ...]]:
    """Return whether a decision on a partition could call for a training, and why."""
    if facts.history is None:
        return Outlook.UNKNOWN, "whether it could train is not known", ("lake or ledger cannot be read",)
    history = History(published={*facts.history.published, partition}, trained=facts.history.trained)
    window_end = facts.champion.window_end if facts.champion else None
    blocks = find_blocks(spec=facts.spec, partition=partition, champion_window_end=window_end, history=history)
    if blocks:
        return Outlook.BLOCKED, "it could not train", blocks
    if facts.champion is None and facts.is_champion_known:
        return Outlook.NEXT, "it would train the first version", ("no champion serves, and a window is published",)
    limits = facts.spec.retraining
    spent = trainings_of_year(partition, trained=history.trained)
    asked = (
        f"it needs a symptom, and an expected gain of at least {limits.min_expected_gain:g}",
        f"{len(spent)} of {limits.max_per_year} trainings of a year are spent",
    )
    if not facts.is_champion_known or (facts.champion and window_end is None):
        why = "the champion's window is not known" if facts.is_champion_known else "MLflow does not answer"
        return Outlook.UNKNOWN, "it could train unless the cool-down forbids it", (why, *asked)
    return Outlook.NEXT, "it could train", asked


def _training_line(facts: Facts, *, outlook: Outlook) -> Line:
    training = facts.spec.training
    where = "in a process beside the task"
    if training.runner != "local":
        where = resolve_profile(training).text
    partition, _ = _next_decided(facts)
    window = partitions.window(partition, training.window_partitions) if partition else ()
    return Line(
        stage="train",
        subject=f"{window[0]} to {window[-1]}" if window else "-",
        outlook=outlook,
        what=f"{_cost(facts.trainings)}, {where}",
        why=(f"stopped after {training.timeout_s} s", f"at most {training.max_epochs} epochs"),
    )


def _cost(trainings: Sequence[PastTraining] | None) -> str:
    """Return what earlier trainings took; nothing is guessed from other models or other rows."""
    if not trainings:
        return "cost unknown: " + ("no training was measured yet" if trainings is not None else "no jobs could be read")
    rows = _range([item.num_rows for item in trainings])
    seconds = _range([round(item.seconds) for item in trainings])
    devices = ", ".join(sorted({item.device for item in trainings}))
    measured = "the one before" if len(trainings) == 1 else f"the {len(trainings)} before"
    return f"{measured} took {seconds} s on {rows} rows ({devices})"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _deploy_line(facts: Facts) -> Line:
    rollout = facts.spec.rollout
    approval = ("a person approves",) if rollout.approval else ()
    subject, outlook = _challenger(facts)
    if facts.champion is None and facts.is_champion_known:
        what = ", then ".join((*approval, "golden requests", "it serves everything"))
        why = ("the first version has nobody to be compared with",)
        return Line(stage="deploy", subject=subject, outlook=outlook, what=what, why=why)
    needs = plan_rollout(rollout, requests_per_s=facts.requests_per_s)
    steps = (f"{need.name} ({need.num_requests} requests)" for need in needs)
    return Line(
        stage="deploy",
        subject=subject,
        outlook=outlook,
        what=", then ".join((*approval, *steps)),
        why=_traffic(facts, needs),
        command=_remedy([need for need in needs if need.is_too_slow]),
    )


def _remedy(late: Sequence[StagePlan]) -> str:
    """Return what to change so that the traffic settles every stage in time."""
    if not late:
        return ""
    shares_pct = [need.least_share_pct for need in late]
    possible = [share_pct for share_pct in shares_pct if share_pct is not None]
    first = f"begin rollout.steps_pct with {max(possible):g} or more, or " if len(possible) == len(late) else ""
    return f"{first}raise rollout.step_timeout_s in model.yaml, or a margin"


def _challenger(facts: Facts) -> tuple[str, Outlook]:
    if facts.progress.canary is not None:
        return f"v{facts.progress.canary}", Outlook.NEXT
    return "the next version", Outlook.IF_SO


def _traffic(facts: Facts, needs: Sequence[StagePlan]) -> tuple[str, ...]:
    rate = facts.requests_per_s
    if rate is None:
        silent = "the model server is silent" if facts.routes is None else "no request since the routes changed"
        return (f"how long that takes is unknown: {silent}",)
    total_s = sum(need.seconds or 0 for need in needs)
    then = facts.spec.rollout.on_inconclusive
    late = [
        f"{need.name} needs {need.seconds:,.0f} s and may take {need.limit_s:,.0f} s: inconclusive, {then}"
        for need in needs
        if need.is_too_slow
    ]
    return (*late, f"at {rate:.1f} requests/s about {total_s:,.0f} s")
