"""The training loop: stopped, killed, out of disk, and yet the same network in the end."""

from __future__ import annotations

import random
import resource
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from include.errors import BadInputError
from include.models.flight_delays import network
from include.tasks import Head
from include.training.checkpoints import Checkpoints
from include.training.export import export_onnx
from include.training.fit import Fitted, InterruptedTrainingError, _build, fit
from include.training.loop import Loop
from include.training.optimizer import scheduled_rate
from include.training.provenance import processor
from include.training.ranks import Ranks
from include.training.rows import load_rows
from include.training.tabular import NetworkInputs, build_tabular
from tests.gpu import needs_gpus
from tests.snapshots import SPEC, small_job, small_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def test_a_training_on_s3_is_resumed_bit_by_bit(bucket: Storage, undisturbed: Fitted) -> None:
    prepared = prepare(bucket, checkpoint_interval_s=OFTEN)
    for num_steps, is_polite in ((9, True), (8, False)):
        with pytest.raises((Killed, InterruptedTrainingError)):
            prepared.fit(should_stop=EndAfter(num_steps, is_polite=is_polite))
    assert_equal(prepared.fit(), undisturbed, prepared.rows)


def test_a_stop_right_after_a_start_writes_nothing_new(storage: Storage) -> None:
    prepared = prepare(storage)
    for num_steps in (5, 0):
        with pytest.raises(InterruptedTrainingError, match=r"stopped in epoch 0, step 5; a checkpoint is saved$"):
            prepared.fit(should_stop=EndAfter(num_steps, is_polite=True))
    assert Checkpoints.of_job(prepared.job, storage=storage).steps() == [5]


def test_a_damaged_newest_checkpoint_costs_steps_and_not_the_result(storage: Storage, undisturbed: Fitted) -> None:
    prepared = prepare(storage)
    for num_steps in (9, 4):
        with pytest.raises(InterruptedTrainingError):
            prepared.fit(should_stop=EndAfter(num_steps, is_polite=True))
    checkpoints = Checkpoints.of_job(prepared.job, storage=storage)
    assert checkpoints.steps() == [9, 13]
    (newest,) = Path(checkpoints.newest_uri() or "").glob("state-*.pt")
    newest.write_bytes(newest.read_bytes()[:-1])
    said: list[str] = []
    assert_equal(prepared.fit(say=said.append), undisturbed, prepared.rows)
    assert "passed over for the one before" in said[0]
    assert said[1] == "continuing after epoch 1, step 1"


def test_the_checkpoints_of_another_job_are_refused(storage: Storage) -> None:
    prepared, other = prepare(storage), prepare(storage, params={"learning_rate": 0.02})
    with pytest.raises(InterruptedTrainingError):
        prepared.fit(should_stop=EndAfter(9, is_polite=True))
    shutil.copytree(prepared.job.checkpoint_uri, other.job.checkpoint_uri)
    with pytest.raises(BadInputError, match=rf"must be of job {other.job.hash[:12]} of 'flight_delays'; got those of"):
        other.fit()


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
    left = {path.parent.name for path in Path(prepared.job.checkpoint_uri).rglob("*") if path.is_file()}
    assert sorted(map(int, left)) == earlier, "half a checkpoint takes room"
    assert any("could not be written, training goes on: [Errno 27] File too large" in line for line in said)
    found = prepared.fit(say=said.append)
    assert Checkpoints.of_job(prepared.job, storage=storage).steps() == earlier
    assert_equal(found, undisturbed, prepared.rows)


def test_the_interval_decides_how_often_a_checkpoint_is_written(storage: Storage, tmp_path: Path) -> None:
    prepared = prepare(storage, checkpoint_interval_s=3600.0)
    prepared.fit()
    assert Checkpoints.of_job(prepared.job, storage=storage).steps() == []


def largest_difference(one: Fitted, other: Fitted) -> float:
    weights, others = one.network.state_dict(), other.network.state_dict()
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


def losses(fitted: Fitted) -> list[float]:
    return [loss for epoch in fitted.epochs for loss in (epoch.train_loss, epoch.validation_loss)]


def place(tmp_path: Path, name: str) -> Storage:
    from include.lake.storage import Storage

    return Storage(root=str(tmp_path / name))


@pytest.mark.parametrize("num_pieces", [3, 100])
def test_pieces_of_a_batch_learn_as_the_whole_batch(tmp_path: Path, num_pieces: int) -> None:
    """Stated tolerance: 1e-5 on losses of about 0.6, and the order of the sums is all that differs.

    100 pieces are more than a batch has rows, and the last batch of an epoch is smaller than the others.
    """
    whole = prepare(place(tmp_path, "whole"), params={"dropout": 0, "input_dropout": 0}).fit()
    pieces = prepare(
        place(tmp_path, "pieces"), params={"dropout": 0, "input_dropout": 0}, accumulation_steps=num_pieces
    ).fit()
    assert losses(pieces) == pytest.approx(losses(whole), abs=1e-5)
    assert 0 < largest_difference(pieces, whole) < 1e-3


def test_layers_that_are_computed_again_give_the_same_bits(storage: Storage, undisturbed: Fitted) -> None:
    prepared = prepare(storage, gradient_checkpointing=True)
    assert_equal(prepared.fit(), undisturbed, prepared.rows)


def test_layers_that_are_computed_again_are_not_kept() -> None:
    """Count the bytes that autograd keeps for the backward pass."""

    def kept_bytes(network: torch.nn.Module, *rows: torch.Tensor) -> int:
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(*rows)
        return sum(sizes)

    rows = torch.zeros((4096, 3), dtype=torch.int64), torch.randn((4096, 20))
    found = []
    for is_recomputed in (False, True):
        training = SPEC.training.model_copy(update={"gradient_checkpointing": is_recomputed})
        head = Head(bias=(0.0,))
        network = build_tabular(
            NetworkInputs(num_categories=[4] * 3, numeric_BN=rows[1].numpy(), head=head, training=training)
        )
        found.append(kept_bytes(network, *rows))
    assert found[1] < found[0] / 5


def test_bf16_learns_about_what_fp32_learns(storage: Storage, undisturbed: Fitted) -> None:
    """Stated tolerance: 0.02 on losses of about 0.6; bf16 has 8 bits of a number, and fp32 weights learn from them."""
    found = prepare(storage, params={"precision": "bf16"}).fit()
    assert losses(found) == pytest.approx(losses(undisturbed), abs=0.02)
    assert losses(found) != losses(undisturbed)
    assert all(value.dtype == torch.float32 for value in found.network.state_dict().values())


def test_bf16_is_resumed_bit_by_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"precision": "bf16", "accumulation_steps": 2, "schedule": "cosine", "warmup_steps": 5}
    wanted = prepare(place(tmp_path, "undisturbed"), **options).fit()
    prepared = prepare(place(tmp_path, "stopped"), **options)
    for num_steps in (3, 17):
        with pytest.raises(InterruptedTrainingError):
            prepared.fit(should_stop=EndAfter(num_steps, is_polite=True))
    assert_equal(prepared.fit(), wanted, prepared.rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_fp16_without_a_gpu_is_refused(storage: Storage) -> None:
    with pytest.raises(
        BadInputError, match=r"with precision fp16 needs a CUDA device; got cpu\. Nothing was trained\."
    ):
        prepare(storage, precision="fp16").fit()


@pytest.mark.parametrize(
    ("params", "found"),
    [
        (
            {"learning_rate": 1e30},
            r"got (a loss of nan|weights that are no numbers|predictions .*) in epoch 1, step \d+",
        ),
        ({"learning_rate": 3e4, "weight_decay": 0}, r"got \S+e\+19, held out \S+, in epoch 1, step 8 \("),
    ],
)
def test_a_training_that_diverges_ends_and_keeps_the_checkpoint_before(
    storage: Storage, params: dict[str, Any], found: str
) -> None:
    prepared = prepare(storage, params=params, checkpoint_interval_s=OFTEN)
    with pytest.raises(BadInputError, match=found):
        prepared.fit()
    state = Checkpoints.of_job(prepared.job, storage=storage).load_newest()
    assert state is not None
    for name, value in state[1]["network"].items():
        assert value.isfinite().all(), name


def test_weights_that_only_grow_take_no_good_checkpoints_place(storage: Storage) -> None:
    """The loss of step 1 is that of the untrained weights; those from step 2 on are numbers, and far too large."""
    prepared = prepare(storage, params={"learning_rate": 100, "dropout": 0}, checkpoint_interval_s=OFTEN)
    with pytest.raises(
        BadInputError, match=r"got \S+e\+\d+, held out \S+, in epoch 1, step 8 .*checkpoint is from before"
    ):
        prepared.fit()
    assert max(Checkpoints.of_job(prepared.job, storage=storage).steps()) <= 1


def test_weights_that_are_no_numbers_are_never_saved(storage: Storage) -> None:
    prepared = prepare(storage)
    torch.manual_seed(0)
    loop = Loop(prepared.job, prepared.rows, network=_build(prepared.job, prepared.rows), ranks=Ranks.alone())
    loop.run_step()
    loop.state()
    with torch.no_grad():
        next(loop.network.parameters())[0, 0] = float("inf")
    with pytest.raises(BadInputError, match="got weights that are no numbers in epoch 1, step 1"):
        loop.state()


class Normed(torch.nn.Module):
    """Has running means, and a weight that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(1)
        self.unused = torch.nn.Parameter(torch.ones(2, 2))
        self.last = torch.nn.Linear(1, 1)

    def forward(self, categorical_BC: torch.Tensor, _numeric_BN: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(categorical_BC[:, :1].float()))[:, 0]


def test_the_averaged_network_has_the_running_means_of_the_trained_one(storage: Storage) -> None:
    prepared = prepare(storage)
    loop = Loop(prepared.job, prepared.rows, network=Normed(), ranks=Ranks.alone())
    while not loop.run_step():
        pass
    loop.end_epoch()
    assert float(loop.average.norm.running_mean) == float(loop.network.norm.running_mean) > 1


def test_the_learning_rate_rises_and_falls(storage: Storage) -> None:
    training = prepare(storage, schedule="cosine", warmup_steps=4, params={"learning_rate": 0.01}).job.training
    found = [scheduled_rate(training, step=step, of=8) for step in (0, 3, 4, 18, 32)]
    assert found == pytest.approx([0.0025, 0.01, 0.01, 0.005, 0.0])
    constant = training.model_copy(update={"schedule": "constant", "warmup_steps": 0})
    assert scheduled_rate(constant, step=31, of=8) == training.learning_rate


class Noisy(torch.nn.Module):
    """A network of one's own that draws from NumPy's and Python's generators while it learns."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
        raw: torch.Tensor = self.network(categorical_BC, numeric_BN)
        return raw + (np.random.normal() + random.gauss(0, 1) if self.training else 0)  # noqa: NPY002 - as people write


def test_a_network_that_draws_from_numpy_and_python_resumes_as_if_nothing_had_happened(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from include.lake.storage import Storage as Lake

    build = network.build_network
    monkeypatch.setattr(network, "build_network", lambda inputs: Noisy(build(inputs)))
    disturbed, wanted = prepare(storage), prepare(Lake(root=str(tmp_path / "undisturbed"))).fit()
    with pytest.raises(InterruptedTrainingError):
        disturbed.fit(should_stop=EndAfter(11, is_polite=True))
    np.random.normal()  # noqa: NPY002 - what another process has drawn
    assert_equal(disturbed.fit(), wanted, disturbed.rows)


def test_it_says_how_long_it_waited_for_rows_and_what_the_bits_depend_on(undisturbed: Fitted) -> None:
    assert 0 < undisturbed.data_wait_frac < 0.5
    assert undisturbed.machine["num_threads"] == "1"
    assert undisturbed.machine["cpu_capability"] == torch.backends.cpu.get_cpu_capability()


def test_it_says_on_what_it_was_begun_and_on_what_it_was_continued(storage: Storage) -> None:
    prepared = prepare(storage)
    with pytest.raises(InterruptedTrainingError):
        prepared.fit(should_stop=EndAfter(11, is_polite=True))
    checkpoints = Checkpoints.of_job(prepared.job, storage=storage)
    step, state = checkpoints.load_newest() or (0, {})
    state["origin"]["machine"] |= {"processor": "Abacus", "slide_rule": "yes"}
    state["origin"]["packages"] |= {"torch": "1.0.0", "nowhere": "3.1"}
    checkpoints.save(step, state)
    with pytest.raises(InterruptedTrainingError):
        prepared.fit(should_stop=EndAfter(3, is_polite=True))
    found = prepared.fit()
    assert found.machine["processor"] == f"Abacus, then {processor()}"
    assert found.machine["slide_rule"] == "yes, then none"
    assert found.machine["world_size"] == "1"
    assert found.packages["torch"] == f"1.0.0, then {version('torch')}"
    assert found.packages["nowhere"] == "3.1, then none"
    assert found.packages["numpy"] == version("numpy")


def test_a_table_that_is_streamed_gives_the_same_bits(
    storage: Storage, undisturbed: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.training.loader._fits", lambda _tensors, _device: False)
    prepared = prepare(storage)
    for num_steps in (3, 17):
        with pytest.raises(InterruptedTrainingError):
            prepared.fit(should_stop=EndAfter(num_steps, is_polite=True))
    assert_equal(prepared.fit(), undisturbed, prepared.rows)


@needs_gpus()
def test_fp16_learns_about_what_fp32_learns(storage: Storage, undisturbed: Fitted) -> None:
    found = prepare(storage, params={"precision": "fp16"}).fit()
    assert losses(found) == pytest.approx(losses(undisturbed), abs=0.02)
