"""From what an Airflow task holds (plain values) to a job, and from a finished job back to plain values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from include.errors import BadInputError, TrainingError
from include.training.checkpoints import Checkpoints
from include.training.commit import current_commit
from include.training.failure_kinds import Standing
from include.training.job import Job, SnapshotRef, make_job
from include.training.resources import spent_on
from include.training.result import read_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.lake.storage import Storage
    from include.spec import ModelSpec


def submit_job(*, spec: ModelSpec, snapshot: Mapping[str, Any], overrides: str, storage: Storage) -> Job:
    """Write the job of a snapshot and return it; the same snapshot, overrides and commit give the same job.

    Args:
        spec: The model.
        snapshot: Fields of a `SnapshotRef`.
        overrides: JSON object: `seed` and fields of `training`; null leaves the spec's value.
        storage: Where job files live.

    Raises:
        BadInputError: Snapshot or overrides cannot be used.
    """
    try:
        ref = SnapshotRef.model_validate({name: snapshot[name] for name in SnapshotRef.model_fields})
    except (KeyError, TypeError, ValidationError) as error:
        raise BadInputError(
            f"a training of {spec.name!r} needs the snapshot that its first task wrote; got {snapshot!r}. Nothing was "
            "trained. Run the snapshot task first."
        ) from error
    try:
        params = dict(json.loads(overrides))
    except (ValueError, TypeError) as error:
        raise BadInputError(
            f"overrides of a training of {spec.name!r} must be a JSON object; got {overrides!r}. Nothing was trained. "
            'Pass for example {"learning_rate": 0.001}.'
        ) from error
    seed = params.pop("seed", None)
    return make_job(spec=spec, snapshot=ref, commit=current_commit(), storage=storage, params=params, seed=seed)


def finished_job(job: Job, *, storage: Storage) -> dict[str, Any]:
    """Return what the tasks after a training need to know.

    Raises:
        TrainingError: There is no whole result.
    """
    result = read_result(job, storage=storage)
    if result is None:
        raise TrainingError(
            f"job {job.key} must leave a whole result.json; got none. Checkpoints are kept. A retry continues at the "
            "newest one."
        )
    best = result.epochs[result.best_epoch]
    return {
        "model": job.spec.name,
        "job_uri": job.uri,
        "job_key": job.key,
        "window": list(job.snapshot.partitions),
        "num_epochs": len(result.epochs),
        "validation_loss": best.validation_loss,
        "device": result.device,
        "seconds": result.seconds,
    }


def standing_of(job: Job, *, storage: Storage) -> Standing:
    """Return how far a job has come; no byte of a checkpoint is read."""
    checkpoint = Checkpoints.of_job(job, storage=storage).newest_uri()
    return Standing(checkpoint=checkpoint, spent=spent_on(job, storage=storage).words)
