"""Training of one job: from its newest checkpoint to the network that did best on the held-out rows."""

from __future__ import annotations

import importlib
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from include.errors import SpecError
from include.training.checkpoint_writer import CheckpointWriter
from include.training.loop import Loop
from include.training.precision import require_precision
from include.training.randomness import seed_all
from include.training.ranks import Ranks
from include.training.tabular import NetworkInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from include.training.checkpoints import Checkpoints
    from include.training.job import Job
    from include.training.result import Epoch
    from include.training.rows import Rows

NUM_THREADS = 1
"""Fixed, not the machine's: sums are split by thread, so another number gives other last digits. Not 2: an epoch of
66,000 rows takes 0.4 s on one, 0.3 s on two idle cores, and 2 to 5 s on two that other processes use."""


class InterruptedTrainingError(Exception):
    """Someone asked the trainer to stop; the message says which checkpoint is the newest."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained network and how it came to be.

    Args:
        network: With the weights that did best.
        epochs: Losses after each epoch.
        best_epoch: Position in `epochs` of those weights.
        data_wait_frac: Share of the training time that the network waited for rows; of this start only.
        machine: What the last digits depend on, beside job, code and packages; of all starts.
        packages: Versions of the libraries that were loaded when it started, and with which it had started before.
    """

    network: torch.nn.Module
    epochs: tuple[Epoch, ...]
    best_epoch: int
    data_wait_frac: float
    machine: Mapping[str, str]
    packages: Mapping[str, str]


def fit(
    job: Job,
    rows: Rows,
    *,
    checkpoints: Checkpoints,
    should_stop: Callable[[], bool],
    say: Callable[[str], None],
    ranks: Ranks | None = None,
) -> Fitted:
    """Train a job's network, from its newest checkpoint if there is one.

    Args:
        job: What to train.
        rows: Its rows.
        checkpoints: Where its state is kept; the first process writes, all read.
        should_stop: Asked before each step.
        say: Gets a line for each epoch.
        ranks: The processes that train it together; None: this one alone.

    Raises:
        InterruptedTrainingError: `should_stop` answered True, and a checkpoint was saved, or it says why not; or
            another process is gone.
        BadInputError: The loss is no number any more, the checkpoints are those of another job, or the device has not
            the precision.
        SpecError: The model has no network.
    """
    ranks = ranks or Ranks.alone()
    say = say if ranks.is_first else _say_nothing
    require_precision(job.training.precision, device=ranks.device, model=job.spec.name)
    _make_deterministic(job.seed)
    with _all_there(ranks, lambda said: f"before its first step, to {said}; the checkpoints are as they were"):
        loop = Loop(job, rows, network=_build(job, rows), ranks=ranks)
        newest = _restore(loop, checkpoints, say=say)
    since = time.perf_counter()
    with CheckpointWriter(checkpoints, newest=newest, say=say) as writer:
        _run(loop, writer, should_stop=should_stop, say=say)
    spent_s = time.perf_counter() - since
    return Fitted(
        network=loop.best_network(),
        epochs=tuple(loop.epochs),
        best_epoch=loop.best_epoch,
        data_wait_frac=round(loop.batches.waited_s / spent_s, 4),
        machine=loop.origin.machine,
        packages=loop.origin.packages,
    )


def _say_nothing(_line: str) -> None:
    """Leave the word to the first process."""


def _run(loop: Loop, writer: CheckpointWriter, *, should_stop: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Train to the end, as long as all processes are there."""

    def tell(said: str) -> str:
        return f"in epoch {loop.epoch}, step {loop.step}, to {said}; of its checkpoints {writer.name_newest()}"

    with _all_there(loop.ranks, tell):
        _run_steps(loop, writer, should_stop=should_stop, say=say)


@contextmanager
def _all_there(ranks: Ranks, tell: Callable[[str], str]) -> Iterator[None]:
    """Make an interruption of what the loss of another process raises; `tell` says where, from the error's first line.

    Raises:
        InterruptedTrainingError: Another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not ranks.is_lost(error):
            raise
        raise InterruptedTrainingError(f"lost another process {tell(str(error).splitlines()[0])}") from error


def _run_steps(
    loop: Loop, writer: CheckpointWriter, *, should_stop: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Train to the end, and save what may be lost: every so many seconds, and when asked to stop."""
    is_first, saved_at = loop.ranks.is_first, time.monotonic()
    while not loop.is_done:
        is_late = time.monotonic() - saved_at > loop.training.checkpoint_interval_s
        is_stopped, is_due = loop.ranks.any(should_stop(), is_first and is_late and not writer.is_busy)
        if is_stopped:
            state = loop.state()
            saved = writer.save_now(loop.total_steps, state) if is_first else "the first process saved"
            loop.ranks.from_first(0)  # torchrun ends the others as soon as one has ended
            raise InterruptedTrainingError(f"stopped in epoch {loop.epoch}, step {loop.step}; {saved}")
        if is_due:
            state = loop.state()
            saved_at = time.monotonic()
            if is_first and not _has_diverged(loop, state):
                writer.save_soon(loop.total_steps, state)
        if loop.run_step():
            say(loop.end_epoch())


def _has_diverged(loop: Loop, state: Mapping[str, Any]) -> bool:
    """Return whether the epoch's loss until now would end the training: what is saved stays from before."""
    num_rows = min(loop.step * loop.training.batch_size, loop.num_rows)
    return bool(state["loss_sum"] > loop.worst_loss * num_rows)


def _restore(loop: Loop, checkpoints: Checkpoints, *, say: Callable[[str], None]) -> int | None:
    """Continue at the newest checkpoint, the same one in every process; return its step, None without any."""
    ranks = loop.ranks
    found = checkpoints.load_newest(say=say) if ranks.is_first else None
    step = ranks.from_first(found[0] if found else -1)
    if step < 0:
        return None
    loop.restore(found[1] if found else checkpoints.load(step))
    say(f"continuing after epoch {loop.epoch}, step {loop.step}")
    return step


def _make_deterministic(seed: int) -> None:
    """Let the same inputs give the same bits on the same kind of machine; a GPU is told, and warned about."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.set_num_threads(NUM_THREADS)
    # Not use_deterministic_algorithms(): it does the same, and imports torch's compiler first, 1 to 3 s.
    torch.set_deterministic_debug_mode("warn" if torch.cuda.is_available() else "error")
    torch.backends.cudnn.benchmark = False
    seed_all(seed)


def _build(job: Job, rows: Rows) -> torch.nn.Module:
    name = f"include.models.{job.spec.name}.network"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, name.rpartition(".")[0]):
            raise
        raise SpecError(
            f"model {job.spec.name!r} must have a network.py beside its model.yaml; got none. Nothing was trained. "
            "Write one with build_network()."
        ) from error
    inputs = NetworkInputs(
        num_categories=[len(values) + 1 for values in rows.encoding.vocabulary.values()],
        numeric_BN=rows.numeric_BN[: rows.num_train],
        head=rows.task.head(rows.label_B[: rows.num_train]),
        training=job.training,
    )
    return module.build_network(inputs)
