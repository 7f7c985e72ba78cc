"""AdamW without `torch.optim`'s classes: making one imports torch's compiler, 2.8 s that nothing here uses."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.adamw import adamw

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def step(self) -> None:
        """Apply the gradients, then forget them."""
        for group in self._groups:
            group.step(self.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs."""
        return {str(number): group.state for number, group in enumerate(self._groups)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for number, group in enumerate(self._groups):
            for own, saved in zip(group.tensors, chain.from_iterable(state[str(number)].values()), strict=True):
                own.copy_(saved)


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
        adamw(
            self.parameters,
            [p.grad for p in self.parameters],
            self.state["first"],
            self.state["second"],
            [],
            self.state["steps"],
            fused=True,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=learning_rate,
            weight_decay=self.weight_decay,
            eps=_EPSILON,
            maximize=False,
        )
        for parameter in self.parameters:
            parameter.grad = None
