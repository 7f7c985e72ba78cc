"""A pass of retention over the models: the first one only announces what the next one removes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from include.errors import TradewindError
from include.retention.apply import KIND, Remover, Retained, remove_run
from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from include.progress.read import Sources
    from include.retention.read import Servers

UPKEEP_DAGS = ("reconcile", "retain", "sweep")
UPKEEP_RUN_AGE = timedelta(days=7)
"""The reconciler runs every five minutes; after so long nobody asks what a run of it found."""
_MAX_UPKEEP_RUNS = 5000


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What a pass did.

    Args:
        removed: One result a model of which something was removed, or nothing was to be.
        planned: One result a model of which nothing was removed yet.
        unreadable: Model -> why it was left alone.
        num_upkeep_runs: Runs of the Dags that look after all models, which were removed.
    """

    removed: tuple[Retained, ...] = ()
    planned: tuple[Retained, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    num_upkeep_runs: int = 0

    def lines(self) -> Iterator[str]:
        """Yield each thing that was removed or will be, and why."""
        for verb, results in (("removed", self.removed), ("may go", self.planned)):
            for found in results:
                for item in found.removals:
                    yield f"{found.model}: {verb}: {item.kind} {item.key}: {item.reason}"
                for table in found.files:
                    yield f"{found.model}: {verb}: {len(table.uris)} files of table {table.table}"
        for model, why in self.unreadable.items():
            yield f"{model}: {why}"

    def to_dict(self) -> dict[str, Any]:
        """Return the pass as JSON-able values."""
        return {
            "removed": {found.model: found.num_by_kind for found in self.removed if found.num_by_kind},
            "planned": {found.model: found.num_by_kind for found in self.planned if found.num_by_kind},
            "unreadable": dict(self.unreadable),
            "num_upkeep_runs": self.num_upkeep_runs,
        }


@dataclass(frozen=True, kw_only=True)
class Keeper:
    """Applies each model's policy.

    Args:
        sources: Lake and ledger.
        servers: The servers that must all answer.
        actor: Who acts, for the ledger.
        key: Names the pass in the ledger.
        logs: Folder of Airflow's task logs, if this machine holds them.
    """

    sources: Sources
    servers: Servers
    actor: str
    key: str
    logs: Path | None = None

    def run(self, models: Iterable[str], *, now: datetime, is_dry: bool) -> Pass:
        """Remove what may go of each model, or only say what; one that cannot be read is left alone, the others not.

        A model's first pass only announces, in the ledger too, so that a week lies between what a policy says and what
        it does.

        Raises:
            ServiceError: Airflow does not answer.
        """
        removed, planned, unreadable = [], [], {}
        for name in models:
            try:
                remover = Remover(spec=load_spec(name), sources=self.sources, servers=self.servers, logs=self.logs)
                if is_dry:
                    planned.append(remover.preview(now=now))
                elif self.sources.ledger.newest(name, KIND) is None:
                    planned.append(self._announce(remover.preview(now=now)))
                else:
                    removed.append(remover.remove(now=now, actor=self.actor, key=self.key))
            except TradewindError as error:
                unreadable[name] = str(error)
        return Pass(
            removed=tuple(removed),
            planned=tuple(planned),
            unreadable=unreadable,
            num_upkeep_runs=0 if is_dry else self._remove_upkeep_runs(now=now),
        )

    def _remove_upkeep_runs(self, *, now: datetime) -> int:
        airflow = self.servers.airflow
        old = airflow.dag_runs(
            UPKEEP_DAGS, max_runs=_MAX_UPKEEP_RUNS, states=("success", "failed"), ended_before=now - UPKEEP_RUN_AGE
        )
        for raw in old:
            remove_run(raw["dag_id"], raw["dag_run_id"], airflow=airflow, logs=self.logs)
        return len(old)

    def _announce(self, found: Retained) -> Retained:
        if found.num_by_kind:
            self.sources.ledger.append(
                model=found.model,
                kind=KIND,
                subject=found.model,
                evidence={"announced": found.num_by_kind},
                actor=self.actor,
                key=f"{KIND}:{found.model}:announced",
            )
        return found
