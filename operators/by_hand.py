"""`python -m operators.by_hand JOB`: the operators of one stage, executed here and now, without a scheduler.

`./tradewind run` starts it, with the deployment's connections in the environment. JOB is JSON: `stage`, `model`,
`partition`, `settings`, `pdb`. What the operator returns is printed as JSON; what it logs goes to stderr. No event is
sent, so nothing downstream starts.
"""

from __future__ import annotations

import getpass
import json
import os
import pdb  # noqa: T100 - what --pdb asks for
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowSkipException

from include.cli.errors import report
from include.cli.stages import STAGES, chain
from include.errors import TradewindError
from operators.build_features import BuildFeaturesOperator
from operators.build_snapshot import BuildSnapshotOperator
from operators.check_parity import CheckParityOperator
from operators.compress_model import CompressModelOperator
from operators.decide_retrain import DecideRetrainOperator
from operators.evaluate_model import EvaluateModelOperator
from operators.ingest_partition import IngestPartitionOperator
from operators.materialize_features import MaterializeFeaturesOperator
from operators.measure_drift import MeasureDriftOperator
from operators.register_model import RegisterModelOperator
from operators.report_drift import ReportDriftOperator
from operators.roll_back_model import RollBackModelOperator
from operators.score_partition import ScorePartitionOperator
from operators.train_model import TrainModelOperator
from operators.validate_partition import ValidatePartitionOperator

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

ON_PARTITION: dict[str, type[BaseOperator]] = {
    "ingest": IngestPartitionOperator,
    "validate": ValidatePartitionOperator,
    "features": BuildFeaturesOperator,
    "materialize": MaterializeFeaturesOperator,
    "parity": CheckParityOperator,
    "snapshot": BuildSnapshotOperator,
    "drift": MeasureDriftOperator,
    "monitor": DecideRetrainOperator,
    "report": ReportDriftOperator,
    "score": ScorePartitionOperator,
}
AFTER_ANOTHER: dict[str, tuple[type[BaseOperator], str]] = {
    "train": (TrainModelOperator, "snapshot"),
    "evaluate": (EvaluateModelOperator, "job_uri"),
    "compress": (CompressModelOperator, "evaluation"),
    "register": (RegisterModelOperator, "package"),
}
"""Stage -> its operator, and the argument that takes what the stage before returned."""


def make_operator(stage: str, job: dict[str, Any], *, before: dict[str, Any]) -> BaseOperator:
    """Return the operator of a stage; `before` is what the stage before returned."""
    chosen = {name: value for name, value in job["settings"].items() if name in STAGES[stage].settings}
    common = {"task_id": stage, "model": job["model"], **chosen}
    if stage == "rollback":
        return RollBackModelOperator(scope="champion", **common)
    if stage in ON_PARTITION:
        return ON_PARTITION[stage](partition=job["partition"], **common)
    kind, argument = AFTER_ANOTHER[stage]
    return kind(**{argument: before["job_uri"] if argument == "job_uri" else before}, **common)


def execute(job: dict[str, Any]) -> dict[str, Any]:
    """Execute a stage and those that it needs; return what the last one returns, or why it was skipped."""
    # It names the actor in the ledger, and makes the keys of this run's entries.
    context: Context = {"run_id": f"by-hand:{getpass.getuser()}:{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"}
    result: dict[str, Any] = {}
    for stage in chain(job["stage"]):
        operator = make_operator(stage, job, before=result)
        ExecutorSafeguard.tracker.set(operator)  # as Airflow's task runner does: this call is meant
        sys.stderr.write(f"{stage}: {type(operator).__name__}\n")
        try:
            result = operator.execute(context)
        except AirflowSkipException as skipped:
            return {"skipped": stage, "reason": str(skipped)}
    return result


def main(text: str) -> int:
    """Run one job; return the exit code."""
    job = json.loads(text)
    # Airflow and libraries log to stdout, which is kept for the result.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as output:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return _run(job, output=output)


def _run(job: dict[str, Any], *, output: TextIO) -> int:
    try:
        output.write(json.dumps(execute(job), indent=2, default=str) + "\n")
    except Exception as error:  # noqa: BLE001 - the border of the program
        if job["pdb"]:
            pdb.post_mortem(error.__traceback__)
        return report(error, debug=not isinstance(error, TradewindError))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
