"""MLflow runs: one a training job, whatever is retried."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import NotFoundError
from include.registry.package import folder_of
from include.registry.rest import AlreadyExistsError, get, post

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_METRICS = 1000  # MLflow's limit for one log-batch
_MAX_PARAM_CHARS = 6000


@dataclass(frozen=True, kw_only=True)
class Run:
    """An MLflow run and the folder of its artifacts."""

    run_id: str
    artifact_uri: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """A metric's value at a step (an epoch; 0 for what has none)."""

    key: str
    value: float
    step: int = 0


def ensure_run(tracking_uri: str, *, experiment: str, name: str, start_ms: int, tags: Mapping[str, str]) -> Run:
    """Return the run of a training job, creating it and its experiment if they are not there.

    Args:
        tracking_uri: MLflow's address.
        experiment: Name of the experiment: the model's.
        name: Name of a new run.
        start_ms: When a new run started, milliseconds since 1970.
        tags: Tags of a new run; `job_key` is what an earlier one is found by.

    Raises:
        ServiceError: MLflow does not answer.
    """
    experiment_id = _ensure_experiment(tracking_uri, experiment)
    asked = {
        "experiment_ids": [experiment_id],
        "filter": f"tags.job_key = '{tags['job_key']}'",
        "order_by": ["attributes.start_time ASC"],
        "max_results": 1,
    }
    runs = post(tracking_uri, "runs/search", asked).get("runs", [])
    if not runs:
        body = {"experiment_id": experiment_id, "run_name": name, "start_time": start_ms, "tags": _pairs(tags)}
        runs = [post(tracking_uri, "runs/create", body)["run"]]
    found = runs[0]["info"]
    return Run(run_id=found["run_id"], artifact_uri=folder_of(found["artifact_uri"]))


def log(tracking_uri: str, *, run: Run, params: Mapping[str, Any], metrics: Sequence[Point], timestamp_ms: int) -> None:
    """Record parameters and metrics; recording equal ones again, at the same timestamp, changes nothing.

    Raises:
        ServiceError: MLflow does not answer, or a parameter has another value already.
    """
    listed = [
        {"key": point.key, "value": point.value, "step": point.step, "timestamp": timestamp_ms}
        for point in metrics
        if math.isfinite(point.value)
    ]
    pairs = _pairs({key: str(value)[:_MAX_PARAM_CHARS] for key, value in params.items()})
    for first in range(0, max(len(listed), 1), _MAX_METRICS - len(pairs)):
        chunk = listed[first : first + _MAX_METRICS - len(pairs)]
        post(tracking_uri, "runs/log-batch", {"run_id": run.run_id, "params": pairs, "metrics": chunk})


def finish(tracking_uri: str, *, run: Run, end_ms: int, is_success: bool = True) -> None:
    """Mark a run as ended.

    Raises:
        ServiceError: MLflow does not answer.
    """
    body = {"run_id": run.run_id, "status": "FINISHED" if is_success else "FAILED", "end_time": end_ms}
    post(tracking_uri, "runs/update", body)


def _ensure_experiment(tracking_uri: str, name: str) -> str:
    try:
        return str(
            get(tracking_uri, "experiments/get-by-name", {"experiment_name": name})["experiment"]["experiment_id"]
        )
    except NotFoundError:
        pass
    try:
        return str(post(tracking_uri, "experiments/create", {"name": name})["experiment_id"])
    except AlreadyExistsError:  # another process was faster
        return str(
            get(tracking_uri, "experiments/get-by-name", {"experiment_name": name})["experiment"]["experiment_id"]
        )


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]
