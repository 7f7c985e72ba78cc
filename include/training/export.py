"""A network as an ONNX graph, checked against the network that it came from.

Shape suffixes: B rows, C categorical inputs, N numeric inputs, K classes (absent where a row has one number).
"""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING

import torch

from include.errors import CorruptArtifactError, SpecError
from include.training.loop import predict

if TYPE_CHECKING:
    import numpy as np

    from include.tasks import Task

OPSET = 17
MAX_DIFFERENCE = 1e-5
"""Of two answers to one row, in the task's unit: 1 for probabilities, the spread of the predictions for numbers."""


class _Scorer(torch.nn.Module):
    """Adds the task's link, so that the graph answers predictions."""

    def __init__(self, network: torch.nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
        return self.task.link(self.network(categorical_BC, numeric_BN))


def export_onnx(network: torch.nn.Module, *, task: Task, categorical_BC: np.ndarray, numeric_BN: np.ndarray) -> bytes:
    """Return the graph of a network: inputs `categorical` and `numeric`, the task's output, any number of rows.

    Args:
        network: Returns logits, or numbers for a regression.
        task: Names the output, and says how it follows from the network's.
        categorical_BC: Rows to trace and to compare with, int64; several, so that no size is taken for constant.
        numeric_BN: The same rows' numbers, float32.

    Raises:
        SpecError: The network is no graph: it looks at its rows to decide what to compute.
        CorruptArtifactError: The graph answers otherwise than the network.
    """
    inputs = (torch.from_numpy(categorical_BC), torch.from_numpy(numeric_BN))
    graph = _trace(network, inputs, task=task)
    _require_equal(graph, network, *inputs, task=task)
    return graph


def _trace(network: torch.nn.Module, inputs: tuple[torch.Tensor, torch.Tensor], *, task: Task) -> bytes:
    sink = BytesIO()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        # The exporter that torch recommends takes 5 s and two more libraries for this graph; this one 0.2 s.
        torch.onnx.export(
            _Scorer(network, task).eval(),
            inputs,
            sink,
            input_names=["categorical", "numeric"],
            output_names=[task.output],
            dynamic_axes={name: {0: "B"} for name in ("categorical", "numeric", task.output)},
            opset_version=OPSET,
            dynamo=False,
        )
    doubts = [str(warning.message) for warning in told if issubclass(warning.category, torch.jit.TracerWarning)]
    if doubts:
        raise SpecError(
            f"the network must be one graph for rows of any number and content; got: {doubts[0]} No version was made. "
            "Take decisions that depend on the rows out of its forward()."
        )
    return sink.getvalue()


def _require_equal(
    graph: bytes, network: torch.nn.Module, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor, *, task: Task
) -> None:
    import numpy as np

    from include.compression.graphs import open_graph, score

    session = open_graph(graph)
    wanted_BK = predict(network, categorical_BC, numeric_BN, task=task)
    allowed = MAX_DIFFERENCE * task.unit(wanted_BK)
    for num_rows in (1, len(categorical_BC)):
        found_BK = score(session, categorical_BC[:num_rows].numpy(), numeric_BN[:num_rows].numpy())
        worst = float(np.max(np.abs(found_BK - wanted_BK[:num_rows])))
        if not worst <= allowed:
            raise CorruptArtifactError(
                f"the ONNX graph must answer as its network does, within {allowed:.3g}; got {worst} on {num_rows} "
                "rows. No version was made. Look for an operation that the exporter does not carry over."
            )
