"""The network for rows of categories and numbers: embeddings and binned numbers into a small MLP.

A plain MLP on standardized numbers learns "warm means few delays" from January to March and carries it as a straight
line into July (log loss 0.66, the base rate has 0.64). Piecewise linear encoding (Gorishniy et al., NeurIPS 2022,
section 3.2) is flat outside what training saw, as trees are: 0.58.

Shape suffixes: B rows, C categorical inputs, N numeric inputs, K bins of one input, E edges, D features of the MLP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.spec import TrainingSpec
    from include.tasks import Head

NUM_BINS = 16
MAX_EMBEDDING = 8
_QUANTILES = (0.01, 0.99)
_LAYERS = 3
"""Of a hidden layer: its weights, what makes it no straight line, and its dropout."""


@dataclass(frozen=True, kw_only=True)
class NetworkInputs:
    """What the trainer knows when it asks a model for its network.

    Args:
        num_categories: Size of each categorical input's vocabulary, 0 (unknown) included.
        numeric_BN: Numeric inputs of the training rows, NaN where missing.
        head: How many outputs, and where they start.
        training: Widths and dropout.
    """

    num_categories: Sequence[int]
    numeric_BN: np.ndarray
    head: Head
    training: TrainingSpec


class TabularNetwork(nn.Module):
    """`forward` returns logits, or for a regression predictions in the label's unit.

    Args:
        inputs: Sizes, training rows and the end of the network.
    """

    def __init__(self, inputs: NetworkInputs) -> None:
        super().__init__()
        edges = torch.as_tensor(_edges(inputs.numeric_BN), dtype=torch.float32)
        self.register_buffer("lower_NK", edges[:, :-1].clone())
        self.register_buffer("width_NK", (edges[:, 1:] - edges[:, :-1]).clamp(min=1e-6))
        self.input_dropout = inputs.training.input_dropout
        self.is_recomputed = inputs.training.gradient_checkpointing
        num_categories = inputs.num_categories
        sizes = [min(MAX_EMBEDDING, (count + 1) // 2) for count in num_categories]
        self.embeddings = nn.ModuleList(nn.Embedding(n, size) for n, size in zip(num_categories, sizes, strict=True))
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.05)
        num_numeric, num_bins = self.lower_NK.shape
        width = sum(sizes) + num_numeric * (num_bins + 1)
        layers: list[nn.Module] = []
        for hidden in inputs.training.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(inputs.training.dropout)]
            width = hidden
        head = inputs.head
        last = nn.Linear(width, len(head.bias))
        with torch.no_grad():
            last.bias.copy_(torch.tensor(head.bias))
        self.mlp = nn.Sequential(*layers, last)
        self.is_single, self.is_scaled = len(head.bias) == 1, head.scale is not None
        self.register_buffer("offset", torch.tensor(head.offset) if self.is_scaled else None)
        self.register_buffer("scale", torch.tensor(head.scale) if self.is_scaled else None)

    def forward(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
        """Return a number for each row, or one for each class; NaN is a missing number, 0 an unknown category."""
        if self.training and self.input_dropout:
            hidden_BC = torch.rand(categorical_BC.shape, device=numeric_BN.device) < self.input_dropout
            categorical_BC = categorical_BC.masked_fill(hidden_BC, 0)
            hidden_BN = torch.rand(numeric_BN.shape, device=numeric_BN.device) < self.input_dropout
            numeric_BN = numeric_BN.masked_fill(hidden_BN, math.nan)
        is_recomputed = self.training and self.is_recomputed
        raw_BK = (self._recomputed if is_recomputed else self._kept)(categorical_BC, numeric_BN)
        raw_BK = raw_BK[:, 0] if self.is_single else raw_BK
        return raw_BK * self.scale + self.offset if self.is_scaled else raw_BK

    def _kept(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
        return self.mlp(self._features(categorical_BC, numeric_BN))

    def _recomputed(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
        """Keep each hidden layer's output alone; the backward pass computes what is inside of it once more.

        Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016. The same dropout is drawn again.
        """

        def first(categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
            return self.mlp[:_LAYERS](self._features(categorical_BC, numeric_BN))

        hidden_BD = checkpoint(first, categorical_BC, numeric_BN, use_reentrant=False)
        for start in range(_LAYERS, len(self.mlp), _LAYERS):
            hidden_BD = checkpoint(self.mlp[start : start + _LAYERS], hidden_BD, use_reentrant=False)
        return hidden_BD

    def _features(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
        missing_BN = torch.isnan(numeric_BN)
        filled_BNK = ((numeric_BN[:, :, None] - self.lower_NK) / self.width_NK).clamp(0, 1) - 0.5
        filled_BNK = torch.where(missing_BN[:, :, None], torch.zeros_like(filled_BNK), filled_BNK)
        embedded = [embed(categorical_BC[:, position]) for position, embed in enumerate(self.embeddings)]
        return torch.cat([*embedded, filled_BNK.flatten(1), missing_BN.float()], dim=1)


def build_tabular(inputs: NetworkInputs) -> nn.Module:
    """Return the untrained network; a model's network.py takes it as its `build_network`, or has its own."""
    return TabularNetwork(inputs)


def _edges(numeric_BN: np.ndarray) -> np.ndarray:
    """Return rising edges of each input's bins, quantiles of the training rows, shape (N, E)."""
    shares_E = np.linspace(*_QUANTILES, NUM_BINS + 1)
    present = [column[~np.isnan(column)] for column in numeric_BN.T]
    found = [np.quantile(x, shares_E) if len(x) else np.zeros(len(shares_E)) for x in present]
    return np.stack(found) if found else np.empty((0, len(shares_E)))
