"""A pass over the models: read their progress, start what was lost, tell what is stuck."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from include.errors import TradewindError
from include.progress.judge import judge, limits_of
from include.progress.read import read_facts
from include.progress.repair import do_repair, plan_repairs
from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from include.progress.read import Sources
    from include.progress.repair import Repair
    from include.progress.state import ModelProgress
    from include.progress.telling import Teller
    from include.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What a pass found and did.

    Args:
        progress: What it found.
        planned: Runs that an event should have started.
        started: Those that this pass started; the others had appeared meanwhile, or it only looked.
    """

    progress: ModelProgress
    planned: tuple[Repair, ...]
    started: tuple[Repair, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What a pass over several models found and did.

    Args:
        models: One result a model that could be read.
        unreadable: Model -> why it could not.
    """

    models: tuple[Reconciled, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yield one line for each thing worth a person's attention."""
        for model, why in self.unreadable.items():
            yield f"{model}: {why}"
        for found in self.models:
            for name in found.progress.silent:
                yield f"{found.progress.model}: {name}"
            for repair in found.planned:
                verb = "started" if repair in found.started else "to be started"
                yield f"{repair.model} {repair.partition}: {repair.why}; {verb}: {repair.dag_id} {repair.run_id}"
            for part in found.progress.stuck:
                if part.stuck and not part.stuck.is_repairable:
                    why = f"{part.stuck.reason}; {part.stuck.detail}. Do: {part.stuck.command}"
                    yield f"{part.model} {part.partition} is stuck before {part.stuck.stage}: {why}"

    def to_dict(self) -> dict[str, Any]:
        """Return the pass as JSON-able values."""
        return {
            "num_models": len(self.models) + len(self.unreadable),
            "planned": [_repair(repair) for found in self.models for repair in found.planned],
            "started": [_repair(repair) for found in self.models for repair in found.started],
            "stuck": [
                {
                    "model": part.model,
                    "partition": part.partition,
                    "stage": str(part.stuck.stage),
                    "reason": str(part.stuck.reason),
                    "detail": part.stuck.detail,
                    "command": part.stuck.command,
                }
                for found in self.models
                for part in found.progress.stuck
                if part.stuck
            ],
            "unreadable": dict(self.unreadable),
        }


def reconcile_models(
    models: Iterable[str], *, sources: Sources, now: datetime, actor: str | None, teller: Teller | None = None
) -> Pass:
    """Reconcile several models; one that cannot be read hides no other.

    Args:
        models: Their names.
        sources: Where their state lives.
        now: The clock, UTC.
        actor: Who acts, for the ledger; None: only look.
        teller: Tells people; None: whoever called reads the result.

    Raises:
        ServiceError: Airflow does not answer, so that no model can be repaired.
    """
    if sources.airflow is not None and actor is not None:
        sources = replace(sources, dags=sources.airflow.dag_ids())
    done, unreadable = [], {}
    for name in models:
        try:
            done.append(reconcile(spec=load_spec(name), sources=sources, now=now, actor=actor, teller=teller))
        except TradewindError as error:
            unreadable[name] = str(error)
    return Pass(models=tuple(done), unreadable=unreadable)


def _repair(repair: Repair) -> dict[str, str]:
    names = ("dag_id", "partition", "run_id", "why")
    return {name: getattr(repair, name) for name in names}


def reconcile(
    *, spec: ModelSpec, sources: Sources, now: datetime, actor: str | None, teller: Teller | None = None
) -> Reconciled:
    """Repair one model's lost events, and tell what else is stuck; again and again ends in the same state.

    Args:
        spec: The model.
        sources: Where its state lives.
        now: The clock, UTC.
        actor: Who acts, for the ledger; None: only look.
        teller: Tells people; None: whoever called reads the result.

    Raises:
        ServiceError: Airflow stopped answering between two runs; the next pass starts the others.
    """
    facts = read_facts(spec=spec, sources=sources, now=now)
    progress = judge(facts, now=now, limits=limits_of(spec))
    planned = plan_repairs(facts, progress)
    if actor is None or sources.airflow is None:
        return Reconciled(progress=progress, planned=planned)
    started = []
    for repair in planned:
        if do_repair(repair, api=sources.airflow, ledger=sources.ledger, actor=actor):
            started.append(repair)
            if teller is not None:
                teller.tell_repair(repair)
    if teller is not None:
        teller.tell_stuck(_without(progress, planned))
    return Reconciled(progress=progress, planned=planned, started=tuple(started))


def _without(progress: ModelProgress, repaired: tuple[Repair, ...]) -> ModelProgress:
    """Return the progress without what was repaired: that is told as a repair, not as something to be done."""
    keys = {repair.partition for repair in repaired}
    return replace(
        progress,
        partitions=tuple(replace(part, stuck=None) if part.partition in keys else part for part in progress.partitions),
    )
