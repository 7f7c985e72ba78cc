"""One training job as a file: everything that the trainer needs to know, and nothing secret."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from include.errors import BadInputError, NotFoundError
from include.lake.files import read_bytes, write_bytes
from include.spec import ModelSpec, PartitionKey, TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.lake.storage import Storage

OVERRIDABLE = (
    "max_epochs",
    "patience_epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "dropout",
    "input_dropout",
    "average_decay",
    "hidden",
    "schedule",
    "warmup_steps",
    "precision",
    "accumulation_steps",
    "gradient_checkpointing",
)
"""Fields of `training` that a run may set; the others decide which rows it sees or where it runs."""

JOB_FILE = "job.json"
_HASH_CHARS = 16


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SnapshotRef(_Frozen):
    """The training set of a job, by content."""

    uri: str = Field(description="Folder with data.parquet and manifest.json.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of data.parquet.")
    partitions: tuple[PartitionKey, ...] = Field(min_length=1, strict=False)
    num_rows: int = Field(gt=0)


class Job(_Frozen):
    """What `python -m include.training --job` reads."""

    schema_version: Literal[1] = 1
    spec: ModelSpec
    snapshot: SnapshotRef
    params: dict[str, Any] = Field(default_factory=dict, description="Fields of `training` that differ from the spec.")
    seed: int
    commit: str
    output_uri: str
    checkpoint_uri: str

    @property
    def training(self) -> TrainingSpec:
        """The spec's `training` with this job's parameters.

        Raises:
            BadInputError: A parameter may not be set by a run, or its value is not allowed.
        """
        unknown = sorted(set(self.params) - set(OVERRIDABLE))
        if unknown:
            raise BadInputError(
                f"params of a training of {self.spec.name!r} may set {', '.join(OVERRIDABLE)}; got {unknown}. Nothing "
                "was trained. Leave them out, or change model.yaml."
            )
        try:
            return TrainingSpec.model_validate(self._patience() | self.params)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise BadInputError(
                f"params of a training of {self.spec.name!r} must be allowed by model.yaml's schema; got {found}. "
                "Nothing was trained. Trigger the run with other values."
            ) from error

    def _patience(self) -> dict[str, Any]:
        """Return the spec's `training`, no more patient than a run that sets fewer epochs."""
        declared, epochs = self.spec.training.model_dump(), self.params.get("max_epochs")
        if isinstance(epochs, int) and epochs > 0:
            declared["patience_epochs"] = min(declared["patience_epochs"], epochs)
        return declared

    @property
    def hash(self) -> str:
        """SHA-256 of everything that decides the result: not of where files lie."""
        decides = self.model_dump(
            mode="json", exclude={"output_uri": True, "checkpoint_uri": True, "snapshot": {"uri"}}
        )
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @property
    def key(self) -> str:
        """Name of the job: its window's last partition and the start of its hash."""
        return f"{self.snapshot.partitions[-1]}-{self.hash[:_HASH_CHARS]}"

    @property
    def uri(self) -> str:
        """The job's own file."""
        return f"{self.output_uri}/{JOB_FILE}"


def make_job(
    *,
    spec: ModelSpec,
    snapshot: SnapshotRef,
    commit: str,
    storage: Storage,
    params: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Job:
    """Write a job's file and return the job; the same arguments give the same file.

    Args:
        spec: The model.
        snapshot: Its training set.
        commit: Commit of the code that must train it.
        storage: Where job files live.
        params: Fields of `training` to set; None values are left out.
        seed: Seed, the spec's when None.

    Raises:
        BadInputError: A parameter may not be set, or its value is not allowed.
    """
    job = Job(
        spec=spec,
        snapshot=snapshot,
        params={name: value for name, value in sorted((params or {}).items()) if value is not None},
        seed=spec.training.seed if seed is None else seed,
        commit=commit,
        output_uri="",
        checkpoint_uri="",
    )
    job.training  # noqa: B018 - refuse bad parameters here, before a GPU is asked for
    folder = storage.job(spec.name, job.key)
    job = job.model_copy(update={"output_uri": folder, "checkpoint_uri": f"{folder}/checkpoints"})
    write_bytes(job.uri, job.model_dump_json(indent=1).encode(), storage=storage)
    return job


def load_job(uri: str, *, storage: Storage) -> Job:
    """Read a job's file.

    Raises:
        BadInputError: There is none, or it is not a job.
    """
    try:
        return Job.model_validate_json(read_bytes(uri, storage=storage))
    except NotFoundError as error:
        raise BadInputError(f"job {uri!r} must exist; got no file. Nothing was trained. Name a job.json.") from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or '(file)'}: {e['msg']}" for e in error.errors()[:5])
        raise BadInputError(
            f"job {uri!r} must be a job.json of schema version 1; got {found}. Nothing was trained. Start the training "
            "again from the Dag, which writes a new one."
        ) from error
