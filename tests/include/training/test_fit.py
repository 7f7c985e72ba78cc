"""The training loop: stopped, killed, out of disk, and yet the same network in the end."""

from __future__ import annotations

import random
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from include.training.checkpoints import Checkpoints
from include.training.export import export_onnx
from include.training.fit import Fitted, InterruptedTrainingError, fit
from include.training.rows import load_rows
from tests.snapshots import SPEC, small_job, small_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.lake.storage import Storage
    from include.training.job import Job
    from include.training.rows import Rows

PARAMS: dict[str, Any] = {"batch_size": 64, "max_epochs": 4, "patience_epochs": 4}
NUM_STEPS = 32
OFTEN = 1e-9


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job with its rows, and what came of it undisturbed."""

    job: Job
    rows: Rows
    storage: Storage

    def fit(self, *, should_stop: Callable[[], bool] = lambda: False, say: Callable[[str], None] = print) -> Fitted:
        checkpoints = Checkpoints.of_job(self.job, storage=self.storage)
        return fit(self.job, self.rows, checkpoints=checkpoints, should_stop=should_stop, say=say)


def prepare(storage: Storage, *, params: dict[str, Any] | None = None, **training: Any) -> Prepared:
    changed = SPEC.training.model_copy(update=training)
    spec = SPEC.model_copy(update={"training": changed})
    job = small_job(storage, table=small_table(600), spec=spec, **{**PARAMS, **(params or {})})
    return Prepared(job=job, rows=load_rows(job, storage=storage), storage=storage)


def graph_of(fitted: Fitted, rows: Rows) -> bytes:
    some = slice(-64, None)
    inputs = {"categorical_BC": rows.categorical_BC[some], "numeric_BN": rows.numeric_BN[some]}
    return export_onnx(fitted.network, task=rows.task, **inputs)


def assert_equal(found: Fitted, wanted: Fitted, rows: Rows) -> None:
    assert found.epochs == wanted.epochs
    assert found.best_epoch == wanted.best_epoch
    for name, value in wanted.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], value), name
    assert graph_of(found, rows) == graph_of(wanted, rows)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    from include.lake.storage import Storage

    return prepare(Storage(root=str(tmp_path_factory.mktemp("undisturbed")))).fit()


class Killed(BaseException):
    """The process ends without a word."""


class EndAfter:
    """Ends the training when it has looked so many times: politely, or not."""

    def __init__(self, num_steps: int, *, is_polite: bool) -> None:
        self.left, self.is_polite = num_steps, is_polite

    def __call__(self) -> bool:
        self.left -= 1
        if self.left < 0 and not self.is_polite:
            raise Killed
        return self.left < 0


@pytest.mark.parametrize("seed", range(8))
def test_interrupted_anywhere_it_ends_as_if_nothing_had_happened(
    storage: Storage, undisturbed: Fitted, seed: int
) -> None:
    """Each seed stops and kills a training a few times, at any steps, while checkpoints are always being written."""
    prepared = prepare(storage, checkpoint_interval_s=OFTEN)
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        end = EndAfter(rng.randrange(NUM_STEPS // 2), is_polite=rng.random() < 0.5)
        with pytest.raises((Killed, InterruptedTrainingError)):
            prepared.fit(should_stop=end)
    said: list[str] = []
    found = prepared.fit(say=said.append)
    assert_equal(found, undisturbed, prepared.rows)
    steps = Checkpoints.of_job(prepared.job, storage=storage).steps()
    assert len(steps) == SPEC.training.checkpoints_kept
    assert steps[-1] <= NUM_STEPS


def test_a_stop_right_after_a_start_writes_nothing_new(storage: Storage) -> None:
    prepared = prepare(storage)
    for num_steps in (5, 0):
        with pytest.raises(InterruptedTrainingError, match=r"stopped in epoch 0, step 5; a checkpoint is saved$"):
            prepared.fit(should_stop=EndAfter(num_steps, is_polite=True))
    assert Checkpoints.of_job(prepared.job, storage=storage).steps() == [5]


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    """Return a function that lets no file of this process grow beyond so many bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_checkpoints_and_nothing_else(
    storage: Storage, undisturbed: Fitted, limit_file_size: Callable[[int], None]
) -> None:
    prepared = prepare(storage, checkpoint_interval_s=OFTEN)
    with pytest.raises(InterruptedTrainingError, match="a checkpoint is saved"):
        prepared.fit(should_stop=EndAfter(4, is_polite=True))
    earlier = Checkpoints.of_job(prepared.job, storage=storage).steps()
    said: list[str] = []
    limit_file_size(2000)
    with pytest.raises(InterruptedTrainingError, match=r"could not be saved, the newest is of step 4$"):
        prepared.fit(should_stop=EndAfter(9, is_polite=True), say=said.append)
    assert any("could not be written, training goes on: [Errno 27] File too large" in line for line in said)
    found = prepared.fit(say=said.append)
    assert Checkpoints.of_job(prepared.job, storage=storage).steps() == earlier
    assert_equal(found, undisturbed, prepared.rows)


def test_the_interval_decides_how_often_a_checkpoint_is_written(storage: Storage, tmp_path: Path) -> None:
    prepared = prepare(storage, checkpoint_interval_s=3600.0)
    prepared.fit()
    assert Checkpoints.of_job(prepared.job, storage=storage).steps() == []
