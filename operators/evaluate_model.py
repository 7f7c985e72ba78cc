from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from operators.hooks.lake import LakeHook
from operators.hooks.ledger import LedgerHook
from operators.hooks.mlflow import MlflowHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

_EVIDENCE = ("held_out", "loss", "version", "baseline", "trees", "champion", "resources")


class EvaluateModelOperator(BaseOperator):
    """Measures a trained version on its held-out rows, beside a constant, boosted trees and champion, and judges it.

    A version that its gates stop does not fail the task: the verdict goes to the ledger, with what it rests on, and to
    the tasks after this one. Killed and run again, it writes the same `evaluation.json`.

    Args:
        model: Name of the model's folder.
        job_uri: The finished job.
        lake_conn_id: Connection of the lake.
        mlflow_conn_id: Connection of the registry, which names the champion.
        ledger_conn_id: Connection of the ledger.

    Returns:
        `model`, `job_uri`, `job_key`, `verdict` (pass, fail, inconclusive), `may_continue`, `reasons`, and `loss` of
        version, baseline, trees and champion.

    Raises:
        TrainingError: The job is not finished.
        CorruptArtifactError: Its snapshot or graph is damaged.
        ServiceError: The registry does not answer.
    """

    template_fields: ClassVar[Sequence[str]] = ("model", "job_uri", "lake_conn_id", "mlflow_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        model: str,
        job_uri: str,
        lake_conn_id: str = LakeHook.default_conn_name,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.job_uri = job_uri
        self.lake_conn_id = lake_conn_id
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Evaluate and record the verdict; what comes back is small and JSON."""
        from include.registry.models import CHAMPION, get_alias
        from include.training.evaluate import evaluate
        from include.training.job import load_job

        storage = LakeHook(self.lake_conn_id).get_conn()
        job = load_job(self.job_uri, storage=storage)
        champion = get_alias(MlflowHook(self.mlflow_conn_id).get_conn(), model=self.model, alias=CHAMPION)
        evaluation = evaluate(job, storage=storage, champion=champion)
        judgement, report = evaluation.judgement, evaluation.report
        run_id = str(context.get("run_id", "by-hand"))
        LedgerHook(self.ledger_conn_id).get_conn().append(
            model=self.model,
            kind="gate",
            subject=job.key,
            evidence={name: report[name] for name in _EVIDENCE} | judgement.to_dict(),
            actor=f"train_{self.model}:{run_id}",
            key=f"gate:{self.model}:{job.key}:{run_id}",
        )
        self.log.info("%s: %s", judgement.verdict, "; ".join(gate.reason for gate in judgement.gates))
        return {
            "model": self.model,
            "job_uri": self.job_uri,
            "job_key": job.key,
            "verdict": judgement.verdict,
            "may_continue": judgement.may_continue,
            "reasons": judgement.reasons,
            "loss": {name: (report[name] or {}).get("loss") for name in ("version", "baseline", "trees", "champion")},
        }
