"""What the ledger knows of a model's partitions and versions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from include.alerts.delivery import KIND as ALERT
from include.progress.facts import DecisionFact
from include.retraining.record import KIND as DECISION
from include.retraining.record import standing_verdict
from include.rollout.history import champion_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from include.progress.airflow_runs import AirflowFacts
    from include.progress.facts import Run, Task
    from include.rollout.ledger import Entry, Ledger


@dataclass(frozen=True, kw_only=True)
class LedgerFacts:
    """What the ledger knows of one model.

    Args:
        champion: Version that took over last.
        decisions: Partition -> its newest decision.
        took_over: Version -> when it became champion last.
        ended: Version -> when its rollout ended last, either way.
        failures: (run, task) -> what the task said when it failed.
    """

    champion: str | None = None
    decisions: Mapping[str, DecisionFact] = field(default_factory=dict)
    took_over: Mapping[str, datetime] = field(default_factory=dict)
    ended: Mapping[str, datetime] = field(default_factory=dict)
    failures: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def read(cls, ledger: Ledger, *, model: str, champion_window_end: str | None) -> LedgerFacts:
        """Return what the ledger knows of a model.

        Args:
            ledger: The ledger.
            model: The model's name.
            champion_window_end: Last partition of the champion's window; a decision to train on it is done with.
        """
        entries = ledger.entries(model)  # oldest first, so that the newest stays
        took_over = {e.subject: e.at for e in entries if e.kind in ("bootstrap", "promote")}
        withdrawn = {str(e.evidence["withdrawn"]): e.at for e in entries if "withdrawn" in e.evidence}
        return cls(
            champion=champion_of(ledger, model),
            decisions={
                e.subject: _decision(e, champion_window_end=champion_window_end) for e in entries if e.kind == DECISION
            },
            took_over=took_over,
            ended=took_over | {name: max(at, took_over.get(name, at)) for name, at in withdrawn.items()},
            failures={(e.evidence["run"], e.subject): _second_line(e) for e in entries if e.kind == ALERT},
        )

    def explain(self, airflow: AirflowFacts) -> AirflowFacts:
        """Return what Airflow knows, with what each failed task said."""
        return replace(
            airflow,
            runs={
                key: {stage: self._explain(run) for stage, run in runs.items()} for key, runs in airflow.runs.items()
            },
        )

    def _explain(self, run: Run) -> Run:
        return replace(run, tasks=tuple(self._said(task, run=run) for task in run.tasks)) if run.tasks else run

    def _said(self, task: Task, *, run: Run) -> Task:
        said = self.failures.get((f"{run.dag_id}:{run.run_id}", f"{run.dag_id}.{task.task_id}"), "")
        return replace(task, message=said if task.state == "failed" else "")


def _decision(entry: Entry, *, champion_window_end: str | None) -> DecisionFact:
    verdict = standing_verdict(entry, champion_window_end=champion_window_end)
    reasons = entry.evidence.get("reasons", [])
    return DecisionFact(
        at=entry.at,
        is_training=verdict.is_training,
        summary=": ".join([str(entry.evidence["verdict"]), *reasons[:1]]),
    )


def _second_line(entry: Entry) -> str:
    """Return the error of a failure's alert: its first line says which task failed, its second why."""
    lines = str(entry.evidence.get("text", "")).splitlines()
    return lines[1] if len(lines) > 1 else ""
