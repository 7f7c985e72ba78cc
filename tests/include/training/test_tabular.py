"""The shared network as a graph, for each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from include.compression.graphs import open_graph, score
from include.errors import CorruptArtifactError
from include.spec import load_spec
from include.tasks.binary import BinaryClassification
from include.tasks.multiclass import MulticlassClassification
from include.tasks.regression import Regression
from include.training.export import export_onnx
from include.training.loop import predict
from include.training.tabular import NetworkInputs, build_tabular

if TYPE_CHECKING:
    from include.tasks import Task

RNG = np.random.default_rng(7)
CATEGORICAL_BC = RNG.integers(0, 4, size=(64, 2))
NUMERIC_BN = RNG.normal(size=(64, 3)).astype(np.float32)
SQUARED = Regression(loss="squared_error", huber_delta=0.0)
LABELS = RNG.normal(size=64)
CASES: list[tuple[Task, np.ndarray, tuple[int, ...]]] = [
    (BinaryClassification(), (LABELS > 0).astype(np.float32), (64,)),
    (MulticlassClassification(classes=("a", "b", "c")), np.arange(64) % 3, (64, 3)),
    (SQUARED, LABELS, (64,)),
]


def network(task: Task, label_B: np.ndarray) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_tabular(
        NetworkInputs(
            num_categories=[4, 4],
            numeric_BN=NUMERIC_BN,
            head=task.head(label_B),
            training=load_spec("flight_delays").training,
        )
    ).eval()


def predicted(task: Task, label_B: np.ndarray) -> np.ndarray:
    inputs = (torch.from_numpy(CATEGORICAL_BC), torch.from_numpy(NUMERIC_BN))
    return predict(network(task, label_B), *inputs, task=task)


@pytest.mark.parametrize(("task", "label_B", "shape"), CASES)
def test_the_graph_answers_what_the_task_says(task: Task, label_B: np.ndarray, shape: tuple[int, ...]) -> None:
    rows = {"categorical_BC": CATEGORICAL_BC, "numeric_BN": NUMERIC_BN}
    session = open_graph(export_onnx(network(task, label_B), task=task, **rows))
    (output,) = session.get_outputs()
    assert output.name == task.output
    found = score(session, CATEGORICAL_BC, NUMERIC_BN)
    assert found.shape == shape
    assert task.prediction_problem(found, num_rows=64) is None
    assert score(session, CATEGORICAL_BC[:0], NUMERIC_BN[:0]).shape == (0, *shape[1:])


def test_an_untrained_network_answers_about_the_baseline() -> None:
    for task, label_B, _ in CASES[:2]:
        mean_K = predicted(task, label_B).reshape(64, -1).mean(axis=0)
        assert mean_K == pytest.approx(np.atleast_1d(np.asarray(task.constant(label_B))), abs=0.1)


def test_a_regression_learns_alike_in_any_unit() -> None:
    once = predicted(SQUARED, LABELS)
    assert predicted(SQUARED, 1000 * LABELS + 500_000) == pytest.approx(1000 * once + 500_000, rel=1e-5)


def test_a_graph_is_held_to_its_network_in_the_labels_own_unit() -> None:
    class Drifting(torch.nn.Module):
        """Answers something else each time, by a share of what it answers."""

        def __init__(self, share: float) -> None:
            super().__init__()
            self.share = share

        def forward(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
            return 1e6 * numeric_BN[:, 0] + self.share * 1e6 * torch.rand(categorical_BC.shape[0])

    rows = {"categorical_BC": CATEGORICAL_BC, "numeric_BN": NUMERIC_BN}
    export_onnx(Drifting(1e-6), task=SQUARED, **rows)
    with pytest.raises(CorruptArtifactError, match="must answer as its network does"):
        export_onnx(Drifting(1e-3), task=SQUARED, **rows)
