from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from include.cli.deployment import find_deployment, sources_of
from include.cli.models import end_with, load_specs
from include.cli.options import DEFAULT_HOME, HomeOption, JsonOption, ModelsArgument
from include.cli.tables import age, print_json, print_silent, print_table

if TYPE_CHECKING:
    from include.plan.facts import Champion, Facts, PastDecision
    from include.progress.state import PartitionProgress, Stage
    from include.runtime.state import ProcessState, SupervisorState


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A version beside the champion.

    Args:
        version: Its number.
        role: canary or shadow.
        share_pct: Share of the requests that it answers, in per cent.
    """

    version: str
    role: str
    share_pct: float


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """How one model is.

    Args:
        model: Its name.
        newest: Stage -> the newest partition that has reached it.
        stuck: The partitions that do not go on, with the reason and what frees them.
        champion: The version that serves.
        canary: The version beside it; None without a rollout, or if the model server is silent.
        decision: The newest decision on whether to train.
        outcome: Why no version came of it, if a training was decided and none did; else empty.
        features_at: When the newest partition was materialized.
        silent: What did not answer.
    """

    model: str
    newest: "dict[Stage, str]"
    stuck: "list[PartitionProgress]"
    champion: "Champion | None"
    canary: Canary | None
    decision: "PastDecision | None"
    outcome: str
    features_at: datetime | None
    silent: tuple[str, ...]


def status(model: ModelsArgument = None, *, as_json: JsonOption = False, home: HomeOption = DEFAULT_HOME) -> None:
    """Say how each model and each process is, and what is stuck, why, and how to free it.

    The exit code is 0 if all is well, and 1 if a partition is stuck, a process is not ready, something does not answer,
    or nothing was started.
    """
    from include.plan.gather import read_facts
    from include.runtime.state import read_state

    deployment = find_deployment(home)
    sources, now = sources_of(deployment), datetime.now(UTC)
    specs, unreadable = load_specs(model)
    models = [summarize(read_facts(spec=spec, sources=sources, now=now)) for spec in specs]
    told = read_state(deployment.home)
    is_well = is_running(told) and not any(found.stuck or found.silent for found in models)
    if as_json:
        print_json({"is_well": is_well, "models": models, "unreadable": unreadable, "supervisor": told})
    else:
        _print(models, told, now=now)
    end_with(unreadable)
    if not is_well:
        raise typer.Exit(1)


def summarize(facts: "Facts") -> ModelStatus:
    """Return how a model is, from what is known about it."""
    from include.progress.state import Stage

    progress, routes = facts.progress, facts.routes
    newest = {
        stage: max(found)
        for stage in Stage
        if (found := [part.partition for part in progress.partitions if part.reached.get(stage) is not None])
    }
    features_at = [at for part in progress.partitions if (at := part.reached.get(Stage.MATERIALIZED)) is not None]
    canary = None
    if routes is not None and routes.canary is not None:
        canary = Canary(version=routes.canary, role="canary", share_pct=routes.canary_share_pct)
    elif routes is not None and routes.shadow is not None:
        canary = Canary(version=routes.shadow, role="shadow", share_pct=0.0)
    return ModelStatus(
        model=progress.model,
        newest=newest,
        stuck=list(progress.stuck),
        champion=facts.champion,
        canary=canary,
        decision=facts.decision,
        outcome=_outcome(facts),
        features_at=max(features_at, default=None),
        silent=facts.silent,
    )


def _outcome(facts: "Facts") -> str:
    decided = facts.decision
    if decided is None or decided.verdict not in ("bootstrap", "retrain"):
        return ""
    return next((part.note for part in facts.progress.partitions if part.partition == decided.partition), "")


def is_running(told: "SupervisorState | None") -> bool:
    """Return whether every process is ready, and something would start it again."""
    return told is not None and told.is_supervised and all(state.phase == "ready" for state in told.processes)


def _print(models: list[ModelStatus], told: "SupervisorState | None", *, now: datetime) -> None:
    print_table("Models", ("model", "", ""), [row for found in models for row in _model_rows(found, now=now)])
    for part in (part for found in models for part in found.stuck):
        _print_stuck(part, now=now)
    if told is None:
        typer.echo("No process was started; `make up` starts them.")
    else:
        columns = ("process", "is", "pid", "since", "restarts", "ended last by", "starts at")
        print_table("Processes (UTC)", columns, [_process_row(state) for state in told.processes])
    if told is not None and not told.is_supervised:
        typer.echo("No supervisor runs: what ends stays ended. `make up` starts it.")
    print_silent({text.partition(":")[0]: text for found in models for text in found.silent}.values())


def _process_row(state: "ProcessState") -> tuple[str, ...]:
    since, starts_at = (text[11:19] if text else "-" for text in (state.since, state.next_try))
    pid, ended = str(state.pid or "-"), state.last_exit or "-"
    return state.name, state.phase, pid, since, str(state.restarts), ended, starts_at


def _model_rows(found: ModelStatus, *, now: datetime) -> list[tuple[str, ...]]:
    decided = found.decision
    outcome = f"; {found.outcome}" if found.outcome else ""
    return [
        (found.model, "newest", _stages(found.newest)),
        ("", "serves", _serving(found, now=now)),
        ("", "decided", f"{decided.partition} {decided.verdict}: {decided.reason}{outcome}" if decided else "-"),
        ("", "features", f"materialized {age(found.features_at, now=now)} ago" if found.features_at else "-"),
    ]


def _stages(newest: "dict[Stage, str]") -> str:
    """Return a line for each partition that is the newest of some stages."""
    by_partition: dict[str, list[str]] = {}
    for stage, partition in newest.items():
        by_partition.setdefault(partition, []).append(str(stage))
    return "\n".join(f"{partition} {', '.join(stages)}" for partition, stages in by_partition.items()) or "none yet"


def _serving(found: ModelStatus, *, now: datetime) -> str:
    champion, canary = found.champion, found.canary
    if champion is None:
        return "nothing yet"
    trained = f", trained to {champion.window_end}" if champion.window_end else ""
    lines = [f"v{champion.version} for {age(champion.since, now=now)}{trained}"]
    if canary is not None:
        lines.append(
            f"v{canary.version} as {canary.role}" + (f" of {canary.share_pct:g} %" if canary.share_pct else "")
        )
    return "\n".join(lines)


def _print_stuck(part: "PartitionProgress", *, now: datetime) -> None:
    """Print why a partition is stuck, unfolded: people copy the command and the address."""
    stuck = part.stuck
    if stuck is None:
        return
    typer.secho(f"Stuck: {part.model} {part.partition}, not {stuck.stage} for {age(stuck.since, now=now)}", bold=True)
    for text in filter(None, (f"{stuck.reason}: {stuck.detail}", f"> {stuck.command}", stuck.url)):
        typer.echo(f"  {text}")
    typer.echo()
