"""How good a trained version is on the rows that were held out, overall and by slice, and beside what.

Shape suffixes: B rows, K classes (absent where a row has one number).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.compression.graphs import open_graph, score
from include.errors import NotFoundError, TrainingError
from include.lake.files import read_bytes, write_bytes
from include.tasks.outputs import repeat
from include.training.competitors import ChampionScores, score_champion, score_trees
from include.training.gates import Judgement, Measured, judge
from include.training.result import GRAPH_FILE, read_result
from include.training.rows import load_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa

    from include.lake.storage import Storage
    from include.registry.models import ModelVersion
    from include.tasks import Metrics, Task
    from include.tasks.task import Constant
    from include.training.job import Job

EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured and what the gates say to it; `evaluation.json` holds both.

    Args:
        judgement: The gates' answer.
        report: JSON-able: metrics of the version, the best constant (`baseline`), trees and champion, overall and by
            slice; `loss` says what the loss is called and its unit, `resources` what the training took.
    """

    judgement: Judgement
    report: Mapping[str, Any]


def evaluate(job: Job, *, storage: Storage, champion: ModelVersion | None) -> Evaluation:
    """Measure a finished job on its held-out rows, judge it, and write `evaluation.json`.

    Args:
        job: A job whose `result.json` is complete.
        storage: Where it is.
        champion: The version to compare with.

    Raises:
        TrainingError: The job is not finished.
        CorruptArtifactError: Snapshot or graph are damaged.
    """
    result = read_result(job, storage=storage)
    if result is None:
        raise TrainingError(
            f"job {job.key} must have a whole result.json before it is evaluated; got none. Nothing was written. Run "
            "the training task again."
        )
    rows = load_rows(job, storage=storage)
    task, held_out, label_B = rows.task, rows.table.slice(rows.num_train), rows.label_B[rows.num_train :]
    graph = open_graph(read_bytes(f"{job.output_uri}/{GRAPH_FILE}", storage=storage))
    predicted_BK = score(graph, rows.categorical_BC[rows.num_train :], rows.numeric_BN[rows.num_train :])
    compared = score_champion(champion, held_out, task=task, storage=storage) if champion else None
    report = {
        "held_out": {"num_rows": len(label_B), "from": _moment(held_out, 0), "to": _moment(held_out, len(label_B) - 1)},
        "loss": {"name": task.loss_name, "unit": task.loss_unit},
        "version": measure(task=task, label_B=label_B, predicted_BK=predicted_BK),
        "baseline": measure_constant(task=task, label_B=label_B, constant=rows.baseline),
        "trees": measure(task=task, label_B=label_B, predicted_BK=score_trees(rows, seed=job.seed)),
        "champion": _beside_champion(compared, task=task, label_B=label_B, predicted_BK=predicted_BK),
        "slices": measure_slices(
            held_out, names=job.spec.slices, task=task, label_B=label_B, predicted_BK=predicted_BK
        ),
        "resources": result.resources.figures() if result.resources else {},
    }
    judgement = judge(measured=_measured(report), gates=job.spec.gates)
    document = {"job_key": job.key, **report, "judgement": judgement.to_dict()}
    write_bytes(f"{job.output_uri}/{EVALUATION_FILE}", json.dumps(document, indent=1).encode(), storage=storage)
    return Evaluation(judgement=judgement, report=report)


def read_evaluation(job: Job, *, storage: Storage) -> dict[str, Any]:
    """Return what `evaluate` wrote.

    Raises:
        TrainingError: The job was not evaluated.
    """
    try:
        return dict(json.loads(read_bytes(f"{job.output_uri}/{EVALUATION_FILE}", storage=storage)))
    except (NotFoundError, ValueError) as error:
        raise TrainingError(
            f"job {job.key} must be evaluated first; got {error}. Nothing was written. Run the evaluation again."
        ) from error


def measure(*, task: Task, label_B: np.ndarray, predicted_BK: np.ndarray) -> Metrics:
    """Return rows, loss, and the task's own metrics."""
    return {
        "num_rows": len(label_B),
        "loss": float(task.losses(label_B, predicted_BK).mean()),
        **task.metrics(label_B, predicted_BK),
    }


def measure_constant(*, task: Task, label_B: np.ndarray, constant: Constant) -> dict[str, Any]:
    """Return the metrics of one answer for all rows, and that answer."""
    predicted_BK = repeat(constant, num_rows=len(label_B))
    return {**measure(task=task, label_B=label_B, predicted_BK=predicted_BK), task.output: constant}


def measure_slices(
    held_out: pa.Table, *, names: tuple[str, ...], task: Task, label_B: np.ndarray, predicted_BK: np.ndarray
) -> dict[str, dict[str, Metrics]]:
    """Return column -> value -> metrics, the largest slices first."""
    import numpy as np

    found: dict[str, dict[str, Metrics]] = {}
    for name in names:
        value_B = np.asarray([str(value) for value in held_out[name].to_pylist()])
        present, count_S = np.unique(value_B, return_counts=True)
        found[name] = {
            str(value): measure(
                task=task, label_B=label_B[value_B == value], predicted_BK=predicted_BK[value_B == value]
            )
            for value in present[np.argsort(-count_S, kind="stable")]
        }
    return found


def _beside_champion(
    compared: ChampionScores | None, *, task: Task, label_B: np.ndarray, predicted_BK: np.ndarray
) -> dict[str, Any] | None:
    """Return the champion's metrics and the paired difference, negative where the trained version is better."""
    if compared is None:
        return None
    if compared.predicted_BK is None:
        return {"version": compared.version, "problem": compared.problem}
    losses_B = task.losses(label_B, predicted_BK) - task.losses(label_B, compared.predicted_BK)
    return {
        "version": compared.version,
        **measure(task=task, label_B=label_B, predicted_BK=compared.predicted_BK),
        "loss_difference": float(losses_B.mean()),
        "standard_error": float(losses_B.std(ddof=1) / len(losses_B) ** 0.5),
    }


def _measured(report: Mapping[str, Any]) -> Measured:
    champion = report["champion"] or {}
    return Measured(
        num_rows=report["held_out"]["num_rows"],
        loss_name=report["loss"]["name"],
        loss=report["version"]["loss"],
        baseline_loss=report["baseline"]["loss"],
        champion_loss=champion.get("loss"),
        champion=champion.get("version"),
        champion_problem=champion.get("problem"),
    )


def _moment(table: pa.Table, row: int) -> str:
    return str(table["event_at"][row].as_py().isoformat())
