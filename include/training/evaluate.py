"""How good a trained version is on the rows that were held out, overall and by slice, and beside what.

Shape suffix: B rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.compression.graphs import open_graph, score
from include.errors import NotFoundError, TrainingError
from include.lake.files import read_bytes, write_bytes
from include.training.competitors import ChampionScores, score_champion, score_trees
from include.training.gates import Judgement, Measured, judge
from include.training.metrics import auc, expected_calibration_error, log_loss
from include.training.result import GRAPH_FILE, read_result
from include.training.rows import load_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa

    from include.lake.storage import Storage
    from include.registry.models import ModelVersion
    from include.training.job import Job

EVALUATION_FILE = "evaluation.json"

Metrics = dict[str, float | int | None]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured and what the gates say to it; `evaluation.json` holds both.

    Args:
        judgement: The gates' answer.
        report: JSON-able: metrics of the version, base rate, trees and champion, overall and by slice.
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
    if read_result(job, storage=storage) is None:
        raise TrainingError(
            f"job {job.key} must have a whole result.json before it is evaluated; got none. Nothing was written. Run "
            "the training task again."
        )
    rows = load_rows(job, storage=storage)
    held_out, label_B = rows.table.slice(rows.num_train), rows.label_B[rows.num_train :]
    graph = open_graph(read_bytes(f"{job.output_uri}/{GRAPH_FILE}", storage=storage))
    probability_B = score(graph, rows.categorical_BC[rows.num_train :], rows.numeric_BN[rows.num_train :])
    compared = score_champion(champion, held_out, storage=storage) if champion else None
    report = {
        "held_out": {"num_rows": len(label_B), "from": _moment(held_out, 0), "to": _moment(held_out, len(label_B) - 1)},
        "version": measure(label_B=label_B, probability_B=probability_B),
        "base_rate": measure_constant(label_B=label_B, rate=rows.base_rate),
        "trees": measure(label_B=label_B, probability_B=score_trees(rows, seed=job.seed)),
        "champion": _beside_champion(compared, label_B=label_B, probability_B=probability_B),
        "slices": measure_slices(held_out, names=job.spec.slices, label_B=label_B, probability_B=probability_B),
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


def measure(*, label_B: np.ndarray, probability_B: np.ndarray) -> Metrics:
    """Return rows, share of positives, log loss, AUC (None with one class) and calibration error."""
    return {
        "num_rows": len(label_B),
        "positive_frac": float(label_B.mean()),
        "log_loss": log_loss(label_B=label_B, probability_B=probability_B),
        "auc": auc(label_B=label_B, probability_B=probability_B),
        "ece": expected_calibration_error(label_B=label_B, probability_B=probability_B),
    }


def measure_constant(*, label_B: np.ndarray, rate: float) -> Metrics:
    """Return the metrics of one probability for all rows, and that probability."""
    import numpy as np

    return measure(label_B=label_B, probability_B=np.full(len(label_B), rate)) | {"probability": rate}


def measure_slices(
    held_out: pa.Table, *, names: tuple[str, ...], label_B: np.ndarray, probability_B: np.ndarray
) -> dict[str, dict[str, Metrics]]:
    """Return column -> value -> metrics, the largest slices first."""
    import numpy as np

    found: dict[str, dict[str, Metrics]] = {}
    for name in names:
        value_B = np.asarray([str(value) for value in held_out[name].to_pylist()])
        present, count_S = np.unique(value_B, return_counts=True)
        found[name] = {
            str(value): measure(label_B=label_B[value_B == value], probability_B=probability_B[value_B == value])
            for value in present[np.argsort(-count_S, kind="stable")]
        }
    return found


def _beside_champion(
    compared: ChampionScores | None, *, label_B: np.ndarray, probability_B: np.ndarray
) -> dict[str, Any] | None:
    """Return the champion's metrics and the paired difference, negative where the trained version is better."""
    if compared is None:
        return None
    if compared.probability_B is None:
        return {"version": compared.version, "problem": compared.problem}
    losses_B = _loss(label_B, probability_B) - _loss(label_B, compared.probability_B)
    return {
        "version": compared.version,
        **measure(label_B=label_B, probability_B=compared.probability_B),
        "log_loss_difference": float(losses_B.mean()),
        "standard_error": float(losses_B.std(ddof=1) / len(losses_B) ** 0.5),
    }


def _loss(label_B: np.ndarray, probability_B: np.ndarray) -> np.ndarray:
    import numpy as np

    clipped_B = np.clip(probability_B.astype(np.float64), 1e-7, 1 - 1e-7)
    return -np.where(label_B > 0, np.log(clipped_B), np.log1p(-clipped_B))


def _measured(report: Mapping[str, Any]) -> Measured:
    champion = report["champion"] or {}
    return Measured(
        num_rows=report["held_out"]["num_rows"],
        log_loss=report["version"]["log_loss"],
        base_rate_log_loss=report["base_rate"]["log_loss"],
        champion_log_loss=champion.get("log_loss"),
        champion=champion.get("version"),
        champion_problem=champion.get("problem"),
    )


def _moment(table: pa.Table, row: int) -> str:
    return str(table["event_at"][row].as_py().isoformat())
