"""Decisions to train, as the ledger keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.retraining.decision import Decision, History, Verdict
from include.training.snapshot import source_partitions

if TYPE_CHECKING:
    from include.lake.storage import Storage
    from include.rollout.ledger import Entry, Ledger
    from include.spec import ModelSpec

KIND = "retrain_decision"


def decision_key(*, model: str, partition: str, run_id: str) -> str:
    """Return the ledger key of a run's decision: its retries find what it decided, a new run decides anew."""
    return f"{KIND}:{model}:{partition}:{run_id}"


def load_history(*, spec: ModelSpec, storage: Storage, ledger: Ledger) -> History:
    """Return which partitions are published and which were sent to training."""
    entries = ledger.entries(spec.name, KIND)
    return History(
        published=source_partitions(spec=spec, storage=storage),
        trained={e.subject for e in entries if Verdict(e.evidence["verdict"]).is_training},
    )


def record_decision(*, ledger: Ledger, model: str, partition: str, decision: Decision, actor: str, key: str) -> Entry:
    """Append a decision; the same key again returns the entry that is there."""
    evidence = {"reasons": list(decision.reasons), **decision.evidence}
    return ledger.append(model=model, kind=KIND, subject=partition, evidence=evidence, actor=actor, key=key)


def standing_verdict(entry: Entry, *, champion_window_end: str | None) -> Verdict:
    """Return what a recorded decision still calls for: `keep` once the champion was trained on its partition.

    A run that is cleared long after must not train again what serves by now.
    """
    verdict = Verdict(entry.evidence["verdict"])
    is_done = champion_window_end is not None and champion_window_end >= entry.subject
    return Verdict.KEEP if verdict.is_training and is_done else verdict
