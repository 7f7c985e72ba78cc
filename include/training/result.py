"""What a training left behind; `result.json` is written last, so a job with one is done."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from include.errors import NotFoundError
from include.lake.files import read_bytes, write_bytes
from include.training.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.lake.storage import Storage
    from include.training.job import Job

RESULT_FILE = "result.json"
GRAPH_FILE = "model.fp32.onnx"
ENCODING_FILE = "encoding.json"


class Epoch(BaseModel):
    """Loss after one pass over the training rows, in its own unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_loss: float
    validation_loss: float


class Result(BaseModel):
    """A finished training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    job_key: str
    job_hash: str
    files: dict[str, str] = Field(description="File name in the job's folder -> SHA-256.")
    epochs: tuple[Epoch, ...]
    best_epoch: int = Field(description="Position in `epochs` of the weights that were kept.")
    num_train_rows: int
    num_validation_rows: int
    baseline: float | list[float] = Field(description="The best constant answer by the training rows.")
    device: str
    packages: dict[str, str] = Field(
        description="Versions of the libraries that trained; `1.0, then 1.1` when a later start had another."
    )
    machine: dict[str, str] = Field(
        default={}, description="What the last digits depend on beside job, code and packages; empty in old results."
    )
    data_wait_frac: float | None = Field(
        default=None, description="Share of the training time that the network waited for rows; the last start's only."
    )
    seconds: dict[str, float] = Field(description="Wall time by step; the last start's only.")
    resources: Resources | None = Field(default=None, description="What it took; null in results of older releases.")
    finished_at_ms: int = Field(description="Milliseconds since 1970.")


def write_result(job: Job, result: Result, *, contents: Mapping[str, bytes], storage: Storage) -> None:
    """Write a training's files, then `result.json`."""
    for name, content in contents.items():
        write_bytes(f"{job.output_uri}/{name}", content, storage=storage)
    write_bytes(f"{job.output_uri}/{RESULT_FILE}", result.model_dump_json(indent=1).encode(), storage=storage)


def read_result(job: Job, *, storage: Storage) -> Result | None:
    """Return the result of a job, None unless it is complete, of this very job, and its files are whole."""
    try:
        result = Result.model_validate_json(read_bytes(f"{job.output_uri}/{RESULT_FILE}", storage=storage))
        if result.job_hash != job.hash:
            return None
        for name, sha256 in result.files.items():
            if hashlib.sha256(read_bytes(f"{job.output_uri}/{name}", storage=storage)).hexdigest() != sha256:
                return None
    except (NotFoundError, ValidationError):
        return None
    return result
