"""Processes over gloo train one network: as one process does, stopped together, and continued by as many or by one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import torch

from include.errors import SetupError
from include.lake.storage import Storage
from include.models.flight_delays import network
from include.training.checkpoints import Checkpoints
from include.training.endings import StoppedError
from include.training.fit import Fitted, InterruptedTrainingError, fit
from include.training.ranks import Ranks, joined_ranks, own_device
from include.training.rows import load_rows
from tests.gpu import needs_gpus
from tests.include.training.forked_ranks import NUM_RANKS, become, start
from tests.snapshots import SPEC, small_job, small_table

if TYPE_CHECKING:
    from pathlib import Path

    from include.training.job import Job

EXACT: dict[str, Any] = {"dropout": 0, "input_dropout": 0}
"""Without random numbers, which each process draws for itself."""
LONG: dict[str, Any] = {**EXACT, "max_epochs": 30, "patience_epochs": 30, "learning_rate": 1e-4}
RANDOM: dict[str, Any] = {"dropout": 0.3, "input_dropout": 0.1}


def make(folder: Path, **params: Any) -> tuple[Job, Storage]:
    storage = Storage(root=str(folder))
    names = ("accumulation_steps", "checkpoint_interval_s")
    training = SPEC.training.model_copy(update={name: params.pop(name) for name in names if name in params})
    spec = SPEC.model_copy(update={"training": training})
    chosen = {"batch_size": 64, "max_epochs": 3, "patience_epochs": 3, **params}
    return small_job(storage, table=small_table(600), spec=spec, **chosen), storage


def train(job: Job, storage: Storage, *, ranks: Ranks, stop_at: int | None = None) -> dict[str, Any]:
    """Train, and return what came of it as plain values; the last process alone is told to stop, if any."""
    left = [stop_at if ranks.rank == ranks.world_size - 1 else None]

    def should_stop() -> bool:
        if left[0] is None:
            return False
        left[0] -= 1
        return left[0] < 0

    checkpoints = Checkpoints.of_job(job, storage=storage)
    rows = load_rows(job, storage=storage)
    try:
        fitted = fit(job, rows, checkpoints=checkpoints, should_stop=should_stop, say=print, ranks=ranks)
    except InterruptedTrainingError as error:
        return {"stopped": str(error)}
    return {"losses": losses(fitted), "weights": digest(fitted), "world_size": fitted.machine["world_size"]}


def losses(fitted: Fitted) -> list[float]:
    return [loss for epoch in fitted.epochs for loss in (epoch.train_loss, epoch.validation_loss)]


def digest(fitted: Fitted) -> str:
    total = hashlib.sha256()
    for value in fitted.network.state_dict().values():
        total.update(value.numpy().tobytes())
    return total.hexdigest()


def be_killed(rank: int, port: int, folder: Path) -> None:
    """Be one of two processes, of which the last is killed as soon as a checkpoint of a step is whole."""
    become(rank, port)
    job, storage = make(folder, **LONG, checkpoint_interval_s=1e-9)
    checkpoints = Checkpoints.of_job(job, storage=storage)

    def should_stop() -> bool:
        if rank and any(checkpoints.steps()):
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    rows = load_rows(job, storage=storage)
    with joined_ranks() as ranks, pytest.raises(InterruptedTrainingError) as told:
        fit(job, rows, checkpoints=checkpoints, should_stop=should_stop, say=print, ranks=ranks)
    (folder / "told").write_text(str(told.value))
    os._exit(75)  # as the command does


def be_gone_at_once(rank: int, port: int, folder: Path) -> None:
    """Be one of two processes, of which the last is killed before its first step."""
    become(rank, port)
    job, storage = make(folder, **EXACT)
    with joined_ranks() as ranks:
        if rank:
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / "told").write_text(train(job, storage, ranks=ranks)["stopped"])
        os._exit(75)


def work(rank: int, port: int, folder: Path) -> None:
    """Be one of the processes: train the jobs that the test compares, one after the other."""
    become(rank, port)
    found: dict[str, Any] = {}
    try:
        with joined_ranks() as ranks:
            found["exact"] = train(*make(folder / "exact", **EXACT), ranks=ranks)
            found["pieces"] = train(*make(folder / "pieces", **EXACT, accumulation_steps=3), ranks=ranks)
            found["one row"] = train(*make(folder / "row", **EXACT, batch_size=509), ranks=ranks)
            found["undisturbed"] = train(*make(folder / "undisturbed", **RANDOM), ranks=ranks)
            stopped = make(folder / "stopped", **RANDOM)
            found["stopped"] = train(*stopped, ranks=ranks, stop_at=11)
            found["resumed"] = train(*stopped, ranks=ranks)
            found["more"] = train(*make(folder / "more", **EXACT), ranks=ranks)
            found["fewer"] = train(*make(folder / "fewer", **EXACT), ranks=ranks, stop_at=11)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        raise
    (folder / f"{rank}.json").write_text(json.dumps(found))


class Normed(torch.nn.Module):
    """A network of one's own, whose running means differ between processes, and which learns by what it has stored."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.norm = torch.nn.BatchNorm1d(1)
        self.register_buffer("seen", torch.zeros(()))
        self.unused = torch.nn.Parameter(torch.ones(2, 2))

    def forward(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
        raw_B = self.network(categorical_BC, numeric_BN)
        if self.training:
            self.seen.add_(raw_B.detach().mean(), alpha=0.1)
        return self.norm(raw_B[:, None])[:, 0] + 0.1 * self.seen


def work_as_four(rank: int, port: int, folder: Path) -> None:
    """Be one of four processes: train networks undisturbed, and again with two interruptions."""
    become(rank, port, of=4)
    found: dict[str, Any] = {}
    build = network.build_network
    with joined_ranks() as ranks:
        for name in ("tabular", "normed"):
            if name == "normed":
                network.build_network = lambda inputs: Normed(build(inputs))
            found[f"{name} undisturbed"] = train(*make(folder / f"{name} undisturbed", **RANDOM), ranks=ranks)
            for stop_at in (5, 9):
                stopped = train(*make(folder / name, **RANDOM), ranks=ranks, stop_at=stop_at)
                assert "stopped in epoch" in stopped["stopped"]
            found[name] = train(*make(folder / name, **RANDOM), ranks=ranks)
        found["few rows"] = train(*make(folder / "few", **RANDOM, batch_size=127, accumulation_steps=2), ranks=ranks)
    (folder / f"{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what one process makes of the same job."""
    return train(*make(tmp_path_factory.mktemp("alone"), **EXACT), ranks=Ranks.alone())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def together(folder: Path) -> list[dict[str, Any]]:
    """Return what each of two processes saw."""
    stopped_alone = train(*make(folder / "more", **EXACT), ranks=Ranks.alone(), stop_at=11)
    assert "a checkpoint is saved" in stopped_alone["stopped"]
    assert start(work, folder) == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(NUM_RANKS)]


def test_two_processes_learn_what_one_learns(together: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """Stated tolerance: 1e-5 on losses of about 0.6; the batch is the same, the order of the sums is not."""
    for name in ("exact", "pieces"):
        assert together[0][name]["losses"] == pytest.approx(alone["losses"], abs=1e-5)
        assert together[0][name] == together[1][name]


def test_a_batch_with_fewer_rows_than_processes_holds_nobody_up(together: list[dict[str, Any]], tmp_path: Path) -> None:
    one = train(*make(tmp_path, **EXACT, batch_size=509), ranks=Ranks.alone())
    assert together[0]["one row"]["losses"] == pytest.approx(one["losses"], abs=1e-5)


def test_all_stop_at_one_step_when_one_is_told_and_end_as_if_undisturbed(together: list[dict[str, Any]]) -> None:
    assert together[0]["stopped"]["stopped"] == "stopped in epoch 1, step 3; a checkpoint is saved"
    assert together[1]["stopped"]["stopped"] == "stopped in epoch 1, step 3; the first process saved"
    assert together[0]["resumed"] == together[0]["undisturbed"] == together[1]["resumed"]


def test_four_processes_that_are_interrupted_end_with_the_bits_of_an_undisturbed_training(tmp_path: Path) -> None:
    """Four add floats in another order when their gradients are cut otherwise; two cannot."""
    assert start(work_as_four, tmp_path, num_ranks=4) == [0, 0, 0, 0]
    first, *others = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    assert first["tabular"] == first["tabular undisturbed"]
    assert first["normed"] == first["normed undisturbed"]
    assert (
        len(first["few rows"]["losses"]) == 6
    )  # although the last batch has two rows, and the norm takes no single one
    assert others == [first] * 3


def test_another_number_of_processes_continues_the_training(
    together: list[dict[str, Any]], alone: dict[str, Any], folder: Path
) -> None:
    assert together[0]["more"]["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert together[0]["fewer"]["stopped"].endswith("a checkpoint is saved")
    assert Checkpoints.of_job(*make(folder / "fewer", **EXACT)[:1], storage=make(folder / "fewer")[1]).steps() == [11]
    fewer = train(*make(folder / "fewer", **EXACT), ranks=Ranks.alone())
    assert fewer["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert (together[0]["more"]["world_size"], fewer["world_size"]) == ("1, then 2", "2, then 1")


def test_a_killed_process_costs_no_more_than_the_steps_since_the_checkpoint(tmp_path: Path) -> None:
    undisturbed = train(*make(tmp_path / "undisturbed", **LONG), ranks=Ranks.alone())
    assert start(be_killed, tmp_path) == [75, -signal.SIGKILL]
    job, storage = make(tmp_path, **LONG, checkpoint_interval_s=1e-9)
    newest = Checkpoints.of_job(job, storage=storage).steps()[-1]
    told = re.fullmatch(
        r"lost another process in epoch (\d+), step (\d+), to .+; of its checkpoints the newest is of step (\d+)",
        (tmp_path / "told").read_text(),
    )
    assert told
    epoch, step, named = map(int, told.groups())
    assert 0 < newest == named <= 8 * epoch + step
    assert train(job, storage, ranks=Ranks.alone())["losses"] == pytest.approx(undisturbed["losses"], abs=1e-5)


def test_a_process_that_is_gone_before_the_first_step_is_an_interruption_too(tmp_path: Path) -> None:
    assert start(be_gone_at_once, tmp_path) == [75, -signal.SIGKILL]
    told = (tmp_path / "told").read_text()
    assert told.startswith("lost another process before its first step, to ")
    assert told.endswith("; the checkpoints are as they were")


def test_dropout_differs_between_processes_that_continue_otherwise(tmp_path: Path) -> None:
    """A training with dropout, continued by others, draws other numbers: it ends elsewhere, and about as well."""
    job, storage = make(tmp_path, **RANDOM)
    wanted = train(*make(tmp_path / "undisturbed", **RANDOM), ranks=Ranks.alone())
    train(job, storage, ranks=Ranks.alone(), stop_at=11)
    checkpoints = Checkpoints.of_job(job, storage=storage)
    found = checkpoints.load_newest()
    assert found is not None
    step, state = found
    state["random"] = state["random"] * 2
    checkpoints.save(step, state)
    got = train(job, storage, ranks=Ranks.alone())
    assert got["weights"] != wanted["weights"]
    assert got["losses"] == pytest.approx(wanted["losses"], abs=0.05)


def test_a_checkpoint_of_an_older_release_is_continued(tmp_path: Path) -> None:
    job, storage = make(tmp_path, **EXACT)
    wanted = train(*make(tmp_path / "undisturbed", **EXACT), ranks=Ranks.alone())
    train(job, storage, ranks=Ranks.alone(), stop_at=11)
    checkpoints = Checkpoints.of_job(job, storage=storage)
    step, state = checkpoints.load_newest() or (0, {})
    del state["buffers"], state["origin"]
    checkpoints.save(step, state)
    assert train(job, storage, ranks=Ranks.alone()) == wanted


@pytest.mark.parametrize(
    ("num_rows", "sizes"), [(9, [3, 2, 2, 2]), (7, [3, 2, 2, 0]), (3, [3, 0, 0, 0]), (1, [1, 0, 0, 0])]
)
def test_no_share_of_a_batch_is_a_single_row(num_rows: int, sizes: list[int]) -> None:
    rows_B = torch.arange(num_rows)
    cpu = torch.device("cpu")
    shares = [Ranks(device=cpu, rank=rank, world_size=4).shard(rows_B) for rank in range(4)]
    assert [len(share) for share in shares] == sizes
    assert torch.equal(torch.cat(shares), rows_B)


def test_one_process_meets_nobody() -> None:
    with joined_ranks({}) as ranks:
        assert ranks.is_first
        assert ranks.any(True, False) == (True, False)
        assert ranks.total(1.5) == (1.5,)
        assert ranks.from_first(7) == 7


def test_a_process_whose_others_do_not_come_is_interrupted(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.training.ranks.TIMEOUT_S", 1)
    given = {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port),
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoppedError, match="the other processes must come within 1 s; got "), joined_ranks():
        pytest.fail("it has met nobody")


def test_a_process_computes_on_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert own_device({"LOCAL_RANK": "1"}) == torch.device("cuda", 1)
    assert own_device({}) == torch.device("cuda", 0)
    assert chosen == [torch.device("cuda", 1), torch.device("cuda", 0)]
    with pytest.raises(SetupError, match="at most 2 processes on this machine, one a GPU; got process 3"):
        own_device({"LOCAL_RANK": "2"})


@needs_gpus()
def test_more_processes_than_gpus_are_refused() -> None:
    with (
        pytest.raises(SetupError, match="torchrun must start at most"),
        joined_ranks({"WORLD_SIZE": "99", "LOCAL_RANK": "98"}),
    ):
        pass


@needs_gpus(NUM_RANKS)
def test_two_gpus_learn_what_one_learns(together: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert together[0]["exact"]["losses"] == pytest.approx(alone["losses"], abs=1e-4)
