"""AdamW without `torch.optim`'s classes: making one imports torch's compiler, 2.8 s that nothing here uses."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.adamw import adamw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.spec import TrainingSpec

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), by torch's own functional form.

    Args:
        parameters: What to learn. Those of one dimension, the biases, do not decay: they carry the base rate.
        learning_rate: Step size.
        weight_decay: Share of a weight that a step of size 1 removes.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], *, learning_rate: float, weight_decay: float) -> None:
        self.learning_rate = learning_rate
        self._groups = [
            _Group([p for p in parameters if p.ndim > 1], weight_decay),
            _Group([p for p in parameters if p.ndim <= 1], 0.0),
        ]

    @property
    def param_groups(self) -> list[dict[str, list[torch.nn.Parameter]]]:
        """Return the parameters as torch's GradScaler looks for them."""
        return [{"params": group.parameters} for group in self._groups]

    def step(self) -> None:
        """Apply the gradients."""
        for group in self._groups:
            group.step(self.learning_rate)

    def forget_gradients(self) -> None:
        """Let the next step start without gradients."""
        for group in self._groups:
            for parameter in group.parameters:
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs."""
        return {str(number): group.state for number, group in enumerate(self._groups)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for number, group in enumerate(self._groups):
            for own, saved in zip(group.tensors, chain.from_iterable(state[str(number)].values()), strict=True):
                own.copy_(saved)


def scheduled_rate(training: TrainingSpec, *, step: int, of: int) -> float:
    """Return the learning rate of a step, from 0, of a training with so many steps an epoch.

    It rises in a straight line over `warmup_steps`; then it stays, or falls along half a cosine towards 0 at
    `max_epochs`. Source: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, without restarts.
    """
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    if training.schedule == "constant":
        return training.learning_rate
    done = (step - training.warmup_steps) / max(1, training.max_epochs * of - training.warmup_steps)
    return training.learning_rate * (1 + math.cos(math.pi * min(1.0, done))) / 2


class _Group:
    def __init__(self, parameters: list[torch.nn.Parameter], weight_decay: float) -> None:
        self.parameters, self.weight_decay = parameters, weight_decay
        self.state = {
            "first": [torch.zeros_like(p, requires_grad=False) for p in parameters],
            "second": [torch.zeros_like(p, requires_grad=False) for p in parameters],
            "steps": [torch.zeros((), device=p.device) for p in parameters],
        }

    @property
    def tensors(self) -> list[torch.Tensor]:
        return list(chain.from_iterable(self.state.values()))

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        found = [one for one in zip(self.parameters, *self.state.values(), strict=True) if one[0].grad is not None]
        if not found:
            return
        parameters, first, second, steps = (list(column) for column in zip(*found, strict=True))
        adamw(
            parameters,
            [p.grad for p in parameters],
            first,
            second,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=learning_rate,
            weight_decay=self.weight_decay,
            eps=_EPSILON,
            maximize=False,
        )
