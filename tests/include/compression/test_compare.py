"""Quantization and comparison of a real network's graph."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest

from include.compression.compare import REQUEST_ROWS, HeldOut, compare
from include.compression.graphs import open_graph, score
from include.compression.quantize import quantize_int8
from include.errors import CorruptArtifactError, SpecError
from include.spec import load_spec
from include.tasks.binary import BinaryClassification
from include.training.export import export_onnx

if TYPE_CHECKING:
    import torch

TASK = BinaryClassification()


@pytest.fixture(scope="module")
def rows() -> HeldOut:
    rng = np.random.default_rng(3)
    numeric_BN = rng.normal(size=(500, 3)).astype(np.float32)
    numeric_BN[rng.uniform(size=numeric_BN.shape) < 0.1] = np.nan
    label_B = (rng.uniform(size=500) < 0.4).astype(np.float32)
    return HeldOut(categorical_BC=rng.integers(0, 5, size=(500, 2)), numeric_BN=numeric_BN, label_B=label_B)


@pytest.fixture(scope="module")
def fp32(rows: HeldOut) -> bytes:
    import torch

    from include.models.flight_delays.network import build_network
    from include.training.tabular import NetworkInputs

    torch.manual_seed(0)
    training = load_spec("flight_delays").training
    inputs = NetworkInputs(
        num_categories=[5, 5], numeric_BN=rows.numeric_BN, head=TASK.head(rows.label_B), training=training
    )
    return export(build_network(inputs).eval(), rows)


def export(network: torch.nn.Module, rows: HeldOut) -> bytes:
    return export_onnx(network, task=TASK, categorical_BC=rows.categorical_BC, numeric_BN=rows.numeric_BN)


def test_int8_is_smaller_and_answers_almost_the_same(
    fp32: bytes, rows: HeldOut, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        int8 = quantize_int8(fp32)
    assert not caplog.records
    found = compare(fp32=fp32, int8=int8, rows=rows, task=TASK, tolerance=None)
    assert found.int8.size_bytes < found.fp32.size_bytes
    assert 0 < found.max_abs_diff < 0.05
    assert found.agreement_frac > 0.95
    assert set(found.speedup) == set(REQUEST_ROWS)
    assert all(value > 0 for value in found.speedup.values())
    assert np.all(np.isfinite(score(open_graph(int8), rows.categorical_BC, rows.numeric_BN)))


def test_a_graph_against_itself_agrees_everywhere(fp32: bytes, rows: HeldOut) -> None:
    found = compare(fp32=fp32, int8=fp32, rows=rows, task=TASK, tolerance=None)
    assert (found.agreement_frac, found.max_abs_diff) == (1.0, 0.0)
    assert found.fp32.loss == found.int8.loss


def test_bytes_that_are_no_graph_are_corrupt() -> None:
    with pytest.raises(CorruptArtifactError, match="must be ONNX that onnxruntime loads"):
        open_graph(b"no graph")


def test_a_graph_that_answers_otherwise_than_its_network_is_refused(rows: HeldOut) -> None:
    import torch

    class Drifting(torch.nn.Module):
        """Answers something else each time, as a random operation left in a graph would."""

        def forward(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
            return torch.nan_to_num(numeric_BN).sum(1) + torch.rand(categorical_BC.shape[0])

    with pytest.raises(CorruptArtifactError, match="must answer as its network does"):
        export(Drifting(), rows)


def test_a_network_that_looks_at_its_rows_is_no_graph(rows: HeldOut) -> None:
    import torch

    class Deciding(torch.nn.Module):
        """Computes something else for some rows."""

        def forward(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
            total_B = torch.nan_to_num(numeric_BN).sum(1)
            return total_B if bool(categorical_BC[0, 0] > 0) else -total_B

    with pytest.raises(SpecError, match="must be one graph for rows of any number and content"):
        export(Deciding(), rows)
