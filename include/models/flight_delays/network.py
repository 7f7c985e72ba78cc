"""The network of `flight_delays`: embeddings and binned numbers into a small MLP.

A plain MLP on standardized numbers learns "warm means few delays" from January to March and carries it as a straight
line into July (log loss 0.66, the base rate has 0.64). Piecewise linear encoding (Gorishniy et al., NeurIPS 2022,
section 3.2) is flat outside what training saw, as trees are: 0.58.

Shape suffixes: B rows, C categorical inputs, N numeric inputs, K bins of one input, E edges, D features of the MLP.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.spec import TrainingSpec

NUM_BINS = 16
MAX_EMBEDDING = 8
_QUANTILES = (0.01, 0.99)


class FlightDelays(nn.Module):
    """Scores flights: `forward` returns logits, shape (B,).

    Args:
        num_categories: Size of each categorical input's vocabulary, 0 (unknown) included.
        edges_NE: Rising edges of each numeric input's bins.
        base_rate: Share of positives, where an untrained network starts.
        training: Widths and dropout.
    """

    def __init__(
        self, *, num_categories: Sequence[int], edges_NE: np.ndarray, base_rate: float, training: TrainingSpec
    ) -> None:
        super().__init__()
        edges = torch.as_tensor(edges_NE, dtype=torch.float32)
        self.register_buffer("lower_NK", edges[:, :-1].clone())
        self.register_buffer("width_NK", (edges[:, 1:] - edges[:, :-1]).clamp(min=1e-6))
        self.input_dropout = training.input_dropout
        sizes = [min(MAX_EMBEDDING, (count + 1) // 2) for count in num_categories]
        self.embeddings = nn.ModuleList(nn.Embedding(n, size) for n, size in zip(num_categories, sizes, strict=True))
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.05)
        num_numeric, num_bins = self.lower_NK.shape
        width = sum(sizes) + num_numeric * (num_bins + 1)
        layers: list[nn.Module] = []
        for hidden in training.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(training.dropout)]
            width = hidden
        last = nn.Linear(width, 1)
        nn.init.constant_(last.bias, math.log(base_rate / (1 - base_rate)))
        self.mlp = nn.Sequential(*layers, last)

    def forward(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
        """Return the logit of each row; NaN is a missing number, 0 an unknown category."""
        if self.training and self.input_dropout:
            hidden_BC = torch.rand(categorical_BC.shape, device=numeric_BN.device) < self.input_dropout
            categorical_BC = categorical_BC.masked_fill(hidden_BC, 0)
            hidden_BN = torch.rand(numeric_BN.shape, device=numeric_BN.device) < self.input_dropout
            numeric_BN = numeric_BN.masked_fill(hidden_BN, math.nan)
        missing_BN = torch.isnan(numeric_BN)
        filled_BNK = ((numeric_BN[:, :, None] - self.lower_NK) / self.width_NK).clamp(0, 1) - 0.5
        filled_BNK = torch.where(missing_BN[:, :, None], torch.zeros_like(filled_BNK), filled_BNK)
        embedded = [embed(categorical_BC[:, position]) for position, embed in enumerate(self.embeddings)]
        features_BD = torch.cat([*embedded, filled_BNK.flatten(1), missing_BN.float()], dim=1)
        return self.mlp(features_BD)[:, 0]


def build_network(
    *, num_categories: Sequence[int], numeric_BN: np.ndarray, base_rate: float, training: TrainingSpec
) -> nn.Module:
    """Return the untrained network; the trainer calls this for every model.

    Args:
        num_categories: Size of each categorical input's vocabulary, 0 (unknown) included.
        numeric_BN: Numeric inputs of the training rows, NaN where missing: bins are their quantiles.
        base_rate: Share of positives among the training rows.
        training: Widths and dropout.
    """
    shares_E = np.linspace(*_QUANTILES, NUM_BINS + 1)
    present = [column[~np.isnan(column)] for column in numeric_BN.T]
    edges_NE = np.stack([np.quantile(x, shares_E) if len(x) else np.zeros(len(shares_E)) for x in present])
    return FlightDelays(num_categories=num_categories, edges_NE=edges_NE, base_rate=base_rate, training=training)
