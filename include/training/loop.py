"""One training's state and its steps; saved and restored at any step without a trace in the result.

Shape suffixes: B rows of a batch, R rows of a set, K classes (absent where a row has one number).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from include.errors import BadInputError
from include.training.loader import Batches
from include.training.optimizer import AdamW, scheduled_rate
from include.training.origin import Origin
from include.training.precision import Precision
from include.training.randomness import host_state, seed_all, set_host_state
from include.training.ranks import LEAST_ROWS
from include.training.result import Epoch

if TYPE_CHECKING:
    from include.tasks import Task
    from include.training.job import Job
    from include.training.ranks import Ranks
    from include.training.rows import Rows

_MIN_GAIN_FRAC = 1e-5
"""Share of the least loss so far that an epoch must win to be the best."""

_DIVERGED_FACTOR = 1000.0
"""An epoch's loss so many times that of the best constant answer comes from weights that only grow."""

_LOOK_EVERY = {"cpu": 1, "cuda": 50}
"""Steps after which losses are read: a GPU would have to stop for each."""

_HELD_OUT_ROWS = 1 << 16
"""Rows that are measured at once."""

_SEED_STRIDE = 1_000_003
"""Between the seeds of two trainings, so that the streams of their epochs and processes do not meet."""


@dataclass(frozen=True)
class _Unread:
    """The loss of one piece of a batch, still where the network is."""

    loss: torch.Tensor
    num_rows: int
    step: int


class Loop:
    """All that changes while training, and nothing else, so that it can be saved and restored.

    A step learns from `batch_size` rows, however many processes share them and in however many pieces each of them
    computes its share: the gradient is that of the mean loss of all those rows.

    Args:
        job: What to train.
        rows: Its rows.
        network: The untrained network.
        ranks: The processes that train it together.
    """

    def __init__(self, job: Job, rows: Rows, *, network: torch.nn.Module, ranks: Ranks) -> None:
        self.job, self.training, self.task, self.ranks = job, job.training, rows.task, ranks
        self.network = network.to(ranks.device).train()
        ranks.take_first([*self.network.parameters(), *self.network.buffers()])
        self.average = copy.deepcopy(self.network).eval()
        self._averaged = list(zip(self.average.parameters(), self.network.parameters(), strict=True))
        self.precision = Precision(self.training.precision, device=ranks.device)
        self.parameters = list(self.network.parameters())
        self.optimizer = AdamW(
            self.parameters,
            learning_rate=self.training.learning_rate,
            weight_decay=self.training.weight_decay,
        )
        label_B = rows.label_B if rows.label_B.dtype == np.int64 else rows.label_B.astype(np.float32)
        tensors = [torch.from_numpy(x) for x in (rows.categorical_BC, rows.numeric_BN, label_B)]
        self.num_rows = rows.num_train
        self.batches = Batches([x[: rows.num_train] for x in tensors], device=ranks.device)
        held_out = [ranks.shard(x[rows.num_train :]) for x in tensors[:2]]
        self.held_out = Batches(held_out, device=ranks.device)
        self.held_out_label_R = ranks.shard(torch.from_numpy(rows.label_B[rows.num_train :])).numpy()
        self.worst_loss = _DIVERGED_FACTOR * self._constant_loss(rows)
        self.epoch, self.step, self.loss_sum = 0, 0, 0.0
        self.epochs: list[Epoch] = []
        self.best_epoch, self.best_weights = -1, self._weights()
        self.origin = Origin.here(ranks)
        self._unread: list[_Unread] = []
        self._start_epoch()
        if not ranks.is_first:
            self._own_random()

    @property
    def total_steps(self) -> int:
        """Steps since the start of the training."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the training rows."""
        return math.ceil(self.num_rows / self.training.batch_size)

    @property
    def is_done(self) -> bool:
        """Whether all epochs are over, or too many brought nothing."""
        is_stale = self.best_epoch >= 0 and self.epoch - 1 - self.best_epoch >= self.training.patience_epochs
        return self.epoch >= self.training.max_epochs or is_stale

    def run_step(self) -> bool:
        """Learn from one batch; True if it was the epoch's last.

        Raises:
            BadInputError: The loss is no number any more.
        """
        shares = self._shares(self.step)
        for _, share in shares:
            categorical_BC, numeric_BN, label_B = next(self._coming)
            with self.precision.autocast():
                raw_BK = self.network(categorical_BC, numeric_BN)
            loss = self.task.train_loss(raw_BK.float(), label_B)
            self.precision.backward(loss if share == 1 else loss * share)
            self._unread.append(_Unread(loss.detach(), num_rows=len(label_B) if share else 0, step=self.step))
        self.ranks.add_gradients(self.parameters)
        self.optimizer.learning_rate = scheduled_rate(self.training, step=self.total_steps, of=self.steps_per_epoch)
        self.precision.step(self.optimizer)
        self.optimizer.forget_gradients()
        self._average()
        self.step += 1
        is_last = self.step == self.steps_per_epoch
        if is_last or self.step % _LOOK_EVERY[self.ranks.device.type] == 0:
            self._read_losses()
        return is_last

    def end_epoch(self) -> str:
        """Measure the held-out rows, keep the weights if they are the best, and say so.

        Raises:
            BadInputError: The loss is no number, or far worse than that of a constant answer.
        """
        self.ranks.take_first(self.network.buffers())  # the result is the first process' network
        for averaged, current in zip(self.average.buffers(), self.network.buffers(), strict=True):
            averaged.copy_(current)
        (loss_sum,) = self.ranks.total(self.loss_sum)
        found = Epoch(train_loss=loss_sum / self.num_rows, validation_loss=self._validate())
        if max(found.train_loss, found.validation_loss) > self.worst_loss:
            raise self._diverged(f"{found.train_loss:.4g}, held out {found.validation_loss:.4g},", step=self.step)
        self.epochs.append(found)
        best = min((e.validation_loss for e in self.epochs[:-1]), default=float("inf"))
        is_best = found.validation_loss < best * (1 - _MIN_GAIN_FRAC)
        if is_best:
            self.best_epoch, self.best_weights = self.epoch, self._weights()
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        self._start_epoch()
        kept = ", kept" if is_best else ""
        return f"epoch {self.epoch}: train {found.train_loss:.4f}, held out {found.validation_loss:.4f}{kept}"

    def best_network(self) -> torch.nn.Module:
        """Return the network with the weights that did best on the held-out rows."""
        self.average.load_state_dict(self.best_weights)
        return self.average.cpu()

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs, as tensors and plain values; every process must ask for it.

        The schedule of the learning rate is a function of the step, so it has no state of its own.

        Raises:
            BadInputError: There is a number among the weights that is none: nothing to come back to.
        """
        self._read_losses()
        if not bool(torch.stack([p.isfinite().all() for p in self.network.parameters()]).all()):
            raise self._diverged("weights that are no numbers", step=self.step)
        is_gpu = self.ranks.device.type == "cuda"
        return {
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.ranks.total(self.loss_sum)[0],
            "epochs": [epoch.model_dump() for epoch in self.epochs],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "network": self.network.state_dict(),
            "buffers": [self.ranks.gather(buffer.cpu()) for buffer in self.network.buffers()],
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state_dict(),
            "random": self.ranks.gather(torch.get_rng_state()),
            "random_host": self.ranks.gather(host_state()),
            "origin": self.origin.to_state(),
            "random_gpu": self.ranks.gather(torch.cuda.get_rng_state(self.ranks.device)) if is_gpu else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, by as many processes or by others.

        With as many, on the same kind of machine, each has its own buffers, such as running means, and draws the random
        numbers that it would have drawn. A checkpoint of an older release has the buffers of the first process alone.
        """
        self.epoch, self.step = state["epoch"], state["step"]
        self.loss_sum = state["loss_sum"] if self.ranks.is_first else 0.0
        self.epochs = [Epoch.model_validate(epoch) for epoch in state["epochs"]]
        self.best_epoch, self.best_weights = state["best_epoch"], state["best_weights"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        self.origin = self.origin.after(state.get("origin", {}))
        self._start_epoch()
        if len(state["random"]) != self.ranks.world_size:
            self._own_random()
            return
        torch.set_rng_state(state["random"][self.ranks.rank])
        set_host_state(state["random_host"][self.ranks.rank])
        if "buffers" in state:
            for buffer, saved in zip(self.network.buffers(), state["buffers"], strict=True):
                buffer.copy_(saved[self.ranks.rank])
        if self.ranks.device.type == "cuda" and state["random_gpu"]:
            torch.cuda.set_rng_state(state["random_gpu"][self.ranks.rank], self.ranks.device)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the current ones."""
        for averaged, current in self._averaged:
            averaged.lerp_(current, 1 - self.training.average_decay)

    def _start_epoch(self) -> None:
        """Shuffle the training rows and feed them from this step on; the order depends on seed and epoch alone."""
        generator = torch.Generator().manual_seed(self.job.seed * _SEED_STRIDE + self.epoch)
        self.order_R = torch.randperm(self.num_rows, generator=generator).to(self.batches.home)
        steps = range(self.step, self.steps_per_epoch)
        self._coming = self.batches.feed(rows_B for step in steps for rows_B, _ in self._shares(step))

    def _shares(self, step: int) -> list[tuple[torch.Tensor, float]]:
        """Return the row numbers of this process' pieces of a batch, and how much of the mean loss each one is.

        A process without a row, at the end of an epoch, takes some that do not count: the others wait for it.
        """
        size = self.training.batch_size
        batch_B = self.order_R[step * size : (step + 1) * size]
        own_B = self.ranks.shard(batch_B)
        if not len(own_B):
            return [(batch_B[:LEAST_ROWS], 0.0)]
        num_pieces = min(self.training.accumulation_steps, max(1, len(own_B) // LEAST_ROWS))
        pieces = torch.tensor_split(own_B, num_pieces) if num_pieces > 1 else (own_B,)
        return [(piece_B, len(piece_B) / len(batch_B)) for piece_B in pieces]

    def _own_random(self) -> None:
        """Draw other random numbers than the other processes, and than before."""
        seed_all((self.job.seed + self.ranks.rank) * _SEED_STRIDE + self.total_steps)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.average.state_dict().items()}

    def _read_losses(self) -> None:
        """Add up the losses since the last look, which waits for the device."""
        unread, self._unread = self._unread, []
        losses = torch.stack([one.loss for one in unread]).tolist() if unread else []
        for one, loss in zip(unread, losses, strict=True):
            if not math.isfinite(loss):
                raise self._diverged(f"a loss of {loss}", step=one.step)
            self.loss_sum += loss * one.num_rows
        if self.precision.is_lost:
            raise self._diverged("gradients beyond fp16 at every scale", step=self.step)

    def _validate(self) -> float:
        pieces = self.held_out.pieces(_HELD_OUT_ROWS)
        predicted_RK = np.concatenate([predict(self.average, *piece, task=self.task) for piece in pieces])
        if not np.isfinite(predicted_RK).all():
            raise self._diverged("predictions that are no numbers", step=self.step)
        label_R = self.held_out_label_R
        own_sum = float(self.task.losses(label_R, predicted_RK).sum()) if len(label_R) else 0.0
        loss_sum, num_rows = self.ranks.total(own_sum, len(label_R))
        return loss_sum / num_rows

    def _constant_loss(self, rows: Rows) -> float:
        """Return the loss of the best constant answer on all rows; infinity if that is always right."""
        constant_RK = np.broadcast_to(np.asarray(rows.baseline), (len(rows.label_B), *np.shape(rows.baseline)))
        return float(self.task.losses(rows.label_B, constant_RK).mean()) or math.inf

    def _diverged(self, found: str, *, step: int) -> BadInputError:
        return BadInputError(
            f"training of {self.job.spec.name!r} must keep a finite loss; got {found} in epoch {self.epoch + 1}, step "
            f"{step} (learning_rate {self.training.learning_rate}, precision {self.training.precision}). No version "
            "was made; the newest checkpoint is from before. Lower learning_rate, or look at the rows."
        )


def predict(
    network: torch.nn.Module, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor, *, task: Task
) -> np.ndarray:
    """Return the predictions of a network in evaluation mode, shape (B,), or (B, K) for K classes."""
    with torch.inference_mode():
        return task.link(network(categorical_BC, numeric_BN)).cpu().numpy()
