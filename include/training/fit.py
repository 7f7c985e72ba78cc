"""The training loop: whole set in memory, one seed, stopped and continued at any batch without a trace in the result.

Shape suffixes: B rows of a batch, R rows of a set, K classes (absent where a row has one number).
"""

from __future__ import annotations

import copy
import importlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from include.errors import BadInputError, SpecError
from include.training.checkpoint_writer import CheckpointWriter
from include.training.optimizer import AdamW
from include.training.result import Epoch
from include.training.tabular import NetworkInputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.tasks import Task
    from include.training.checkpoints import Checkpoints
    from include.training.job import Job
    from include.training.rows import Rows

NUM_THREADS = 1
"""Fixed, not the machine's: sums are split by thread, so another number gives other last digits. Not 2: an epoch of
66,000 rows takes 0.4 s on one, 0.3 s on two idle cores, and 2 to 5 s on two that other processes use."""

_MIN_GAIN_FRAC = 1e-5
"""Share of the least loss so far that an epoch must win to be the best."""


class InterruptedTrainingError(Exception):
    """Someone asked the trainer to stop; the message says which checkpoint is the newest."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained network and how it came to be."""

    network: torch.nn.Module
    epochs: tuple[Epoch, ...]
    best_epoch: int


def fit(
    job: Job, rows: Rows, *, checkpoints: Checkpoints, should_stop: Callable[[], bool], say: Callable[[str], None]
) -> Fitted:
    """Train a job's network, from its newest checkpoint if there is one.

    Raises:
        InterruptedTrainingError: `should_stop` answered True; a checkpoint was saved, or it says why not.
        BadInputError: The loss is no number any more, or the checkpoints are those of another job.
        SpecError: The model has no network.
    """
    torch.set_num_threads(NUM_THREADS)
    # Not use_deterministic_algorithms(): it does the same, and imports torch's compiler first, 1 to 3 s.
    torch.set_deterministic_debug_mode("warn" if torch.cuda.is_available() else "error")
    loop = _Loop(job, rows)
    found = checkpoints.load_newest(say=say)
    if found:
        loop.restore(found[1])
        say(f"continuing after epoch {loop.epoch}, step {loop.step}")
    with CheckpointWriter(checkpoints, newest=found[0] if found else None, say=say) as writer:
        _run(loop, writer, should_stop=should_stop, say=say)
    return Fitted(network=loop.best_network(), epochs=tuple(loop.epochs), best_epoch=loop.best_epoch)


def _run(loop: _Loop, writer: CheckpointWriter, *, should_stop: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Train to the end, and save what may be lost: every so many seconds, and when asked to stop."""
    saved_at = time.monotonic()
    while not loop.is_done:
        if should_stop():
            saved = writer.save_now(loop.total_steps, loop.state())
            raise InterruptedTrainingError(f"stopped in epoch {loop.epoch}, step {loop.step}; {saved}")
        if loop.run_step():
            say(loop.end_epoch())
        is_due = time.monotonic() - saved_at > loop.training.checkpoint_interval_s
        if is_due and not writer.is_busy:
            writer.save_soon(loop.total_steps, loop.state())
            saved_at = time.monotonic()


class _Loop:
    """All that changes while training, and nothing else, so that it can be saved and restored."""

    def __init__(self, job: Job, rows: Rows) -> None:
        self.job, self.training, self.task = job, job.training, rows.task
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(job.seed)
        self.network = _build(job, rows).to(self.device)
        self.average = copy.deepcopy(self.network).eval()
        self.optimizer = AdamW(
            list(self.network.parameters()),
            learning_rate=self.training.learning_rate,
            weight_decay=self.training.weight_decay,
        )
        self.network.train()
        label_B = rows.label_B if rows.label_B.dtype == np.int64 else rows.label_B.astype(np.float32)
        tensors = (rows.categorical_BC, rows.numeric_BN, label_B)
        self.train = [torch.from_numpy(x[: rows.num_train]).to(self.device) for x in tensors]
        self.held_out = [torch.from_numpy(x[rows.num_train :]).to(self.device) for x in tensors[:2]]
        self.held_out_label_R = rows.label_B[rows.num_train :]
        self.epoch, self.step, self.loss_sum = 0, 0, 0.0
        self.epochs: list[Epoch] = []
        self.best_epoch, self.best_weights = -1, self._weights()
        self.order_R = self._shuffled()

    @property
    def total_steps(self) -> int:
        return self.epoch * math.ceil(len(self.order_R) / self.training.batch_size) + self.step

    @property
    def is_done(self) -> bool:
        is_stale = self.best_epoch >= 0 and self.epoch - 1 - self.best_epoch >= self.training.patience_epochs
        return self.epoch >= self.training.max_epochs or is_stale

    def run_step(self) -> bool:
        """Learn from one batch; True if it was the epoch's last."""
        size = self.training.batch_size
        chosen_B = self.order_R[self.step * size : (self.step + 1) * size]
        categorical_BC, numeric_BN, label_B = (x[chosen_B] for x in self.train)
        loss = self.task.train_loss(self.network(categorical_BC, numeric_BN), label_B)
        loss.backward()
        self.optimizer.step()
        self._average()
        self.loss_sum += float(loss.detach()) * len(chosen_B)
        self.step += 1
        return self.step * size >= len(self.order_R)

    def end_epoch(self) -> str:
        """Measure the held-out rows, keep the weights if they are the best, and say so."""
        found = Epoch(train_loss=self.loss_sum / len(self.order_R), validation_loss=self._validate())
        self.epochs.append(found)
        best = min((e.validation_loss for e in self.epochs[:-1]), default=float("inf"))
        is_best = found.validation_loss < best * (1 - _MIN_GAIN_FRAC)
        if is_best:
            self.best_epoch, self.best_weights = self.epoch, self._weights()
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        self.order_R = self._shuffled()
        kept = ", kept" if is_best else ""
        return f"epoch {self.epoch}: train {found.train_loss:.4f}, held out {found.validation_loss:.4f}{kept}"

    def best_network(self) -> torch.nn.Module:
        """Return the network with the weights that did best on the held-out rows."""
        self.average.load_state_dict(self.best_weights)
        return self.average.cpu()

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs, as tensors and plain values."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "epochs": [epoch.model_dump() for epoch in self.epochs],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.epoch, self.step, self.loss_sum = state["epoch"], state["step"], state["loss_sum"]
        self.epochs = [Epoch.model_validate(epoch) for epoch in state["epochs"]]
        self.best_epoch, self.best_weights = state["best_epoch"], state["best_weights"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.order_R = self._shuffled()
        torch.set_rng_state(state["random"])

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the current ones."""
        for averaged, current in zip(self.average.parameters(), self.network.parameters(), strict=True):
            averaged.lerp_(current, 1 - self.training.average_decay)

    def _shuffled(self) -> torch.Tensor:
        """Return this epoch's order of the training rows; it depends on seed and epoch alone."""
        generator = torch.Generator().manual_seed(self.job.seed * 1_000_003 + self.epoch)
        return torch.randperm(len(self.train[2]), generator=generator).to(self.device)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.average.state_dict().items()}

    def _validate(self) -> float:
        predicted_RK = predict(self.average, *self.held_out, task=self.task)
        if not np.isfinite(predicted_RK).all():
            raise BadInputError(
                f"training of {self.job.spec.name!r} must keep a finite loss; got NaN in epoch {self.epoch + 1} at "
                f"learning_rate {self.training.learning_rate}. No version was made. Lower learning_rate."
            )
        return float(self.task.losses(self.held_out_label_R, predicted_RK).mean())


def predict(
    network: torch.nn.Module, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor, *, task: Task
) -> np.ndarray:
    """Return the predictions of a network in evaluation mode, shape (B,), or (B, K) for K classes."""
    with torch.inference_mode():
        return task.link(network(categorical_BC, numeric_BN)).cpu().numpy()


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
