from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.branch import BranchMixIn

from operators.hooks.ledger import LedgerHook
from operators.measure_drift import MeasureDriftOperator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from include.drift.monitor import Measurement
    from include.retraining.decision import Verdict
    from include.rollout.ledger import Entry


class DecideRetrainOperator(MeasureDriftOperator, BranchMixIn):
    """Measures a partition as `MeasureDriftOperator` does, and decides whether its data is worth a training.

    The decision goes to the ledger once for each Dag run: a retry finds it there and returns it unmeasured, so that a
    run that was killed before its event still sends the event. To have it decided again, trigger a new run.

    Args:
        follow: Verdict -> ids of the tasks right after this one that run then; all others are skipped. None: all run.
        ledger_conn_id: Connection of the ledger.
        **kwargs: As for `MeasureDriftOperator`.

    Returns:
        `model`, `partition`, `verdict` (bootstrap, retrain, keep, inconclusive), `reasons`, `champion` (version or
        None), `window` (partitions to train on), `ledger_seq`.

    Raises:
        TradewindError: As for `MeasureDriftOperator`.
    """

    inherits_from_skipmixin = True

    def __init__(
        self,
        *,
        follow: Mapping[str, Sequence[str]] | None = None,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.follow = follow
        self.ledger_conn_id = ledger_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Decide, record, and skip the tasks that the verdict does not call for; what comes back is small and JSON."""
        entry, verdict = self._decide(run_id=str(context.get("run_id", "by-hand")))
        decision = {
            "model": entry.model,
            "partition": entry.subject,
            "verdict": str(verdict),
            "reasons": entry.evidence["reasons"],
            "champion": (entry.evidence["champion"] or {}).get("version"),
            "window": entry.evidence["window"],
            "ledger_seq": entry.seq,
        }
        self.log.info("%s %s: %s", entry.subject, verdict, "; ".join(decision["reasons"]))
        if self.follow is not None:
            # Skipping leaves through an exception, which loses what would be returned.
            context["ti"].xcom_push(key="return_value", value=decision)
            self.do_branch(context, list(self.follow[verdict]))
        return decision

    def _decide(self, *, run_id: str) -> tuple[Entry, Verdict]:
        """Return the run's entry in the ledger, taking the decision if it has none, and what it calls for now."""
        from include.retraining.decision import decide
        from include.retraining.record import decision_key, load_history, record_decision, standing_verdict

        on = self.subject()
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        key = decision_key(model=on.spec.name, partition=on.partition, run_id=run_id)
        champion = self.find_champion()
        entry = ledger.find(key)
        if entry is None:
            decision = decide(
                spec=on.spec,
                partition=on.partition,
                measurement=self.measure(champion) if champion else _unmeasured(on.partition),
                champion=champion,
                history=load_history(spec=on.spec, storage=on.storage, ledger=ledger),
            )
            actor = f"monitor_{on.spec.name}:{run_id}"
            entry = record_decision(
                ledger=ledger, model=on.spec.name, partition=on.partition, decision=decision, actor=actor, key=key
            )
        return entry, standing_verdict(entry, champion_window_end=champion.window_end if champion else None)


def _unmeasured(partition: str) -> Measurement:
    """Return what is known before anything serves; the first partitions need no more, and their loop is faster so."""
    from include.drift.monitor import Measurement

    return Measurement(partition=partition, champion_version=None)
