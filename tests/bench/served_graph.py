"""The graph that all servers of the comparison serve, its package, and rows to ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from include.features.encoding import Encoding
from include.registry.package import write_package
from include.serving.client import infer_body
from include.spec import load_spec
from include.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from include.registry.package import Package

MODEL = "airport_weather"
"""Its features all come with the request, so no server has a feature store to ask."""
_NUM_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class ServedGraph:
    """A graph with its inputs' encoding, and rows of random weather.

    Args:
        graph: ONNX: `categorical` int64 and `numeric` float32 in, one number a row out.
        encoding: How our server's named columns become them.
        columns: Input -> values of the rows.
    """

    graph: bytes
    encoding: Encoding
    columns: dict[str, list[Any]]

    def package(self, folder: Path) -> Package:
        """Write a version of the model."""
        spec = load_spec(MODEL)
        golden = {name: values[:16] for name, values in self.columns.items()}
        scores = self.scores(golden)
        contents = {
            "model.onnx": self.graph,
            "encoding.json": self.encoding.to_json().encode(),
            "golden.json": json.dumps({"columns": golden, task_of(spec).output: scores, "tolerance": 1e-3}).encode(),
        }
        return write_package(str(folder), model=MODEL, job_key="bench", contents=contents)

    def scores(self, columns: dict[str, list[Any]]) -> list[float]:
        """Return what the graph says of rows."""
        import onnxruntime

        session = onnxruntime.InferenceSession(self.graph, providers=["CPUExecutionProvider"])
        categorical_BC, numeric_BN = self.encoding.encode(columns)
        (predicted_B,) = session.run(None, {"categorical": categorical_BC, "numeric": numeric_BN})
        return [float(number) for number in predicted_B]

    def rows(self, first: int, num_rows: int) -> dict[str, list[Any]]:
        """Return some of the rows as columns."""
        return {name: values[first : first + num_rows] for name, values in self.columns.items()}

    def as_columns(self, first: int, num_rows: int, *, sticky_key: str | None = None) -> bytes:
        """Return a request of the Open Inference Protocol v2 to our server, which encodes the rows itself."""
        return json.dumps(infer_body(columns=self.rows(first, num_rows), sticky_key=sticky_key)).encode()

    def as_tensors(self, first: int, num_rows: int) -> dict[str, list[list[float]]]:
        """Return rows that are encoded already."""
        categorical_BC, numeric_BN = self.encoding.encode(self.rows(first, num_rows))
        return {
            "categorical": categorical_BC.tolist(),
            "numeric": [[round(x, 3) for x in r] for r in numeric_BN.tolist()],
        }


def make_graph(*, hidden: Sequence[int] = (64, 32)) -> ServedGraph:
    """Export the model's own network, untrained: speed does not depend on its weights."""
    import torch

    from include.training.export import export_onnx
    from include.training.tabular import NetworkInputs, build_tabular

    spec = load_spec(MODEL)
    random = np.random.default_rng(1)
    encoding = Encoding(
        vocabulary={"origin": ("EWR", "JFK", "LGA"), "hour_of_day": tuple(str(hour) for hour in range(24))},
        numeric=spec.features.numeric,
    )
    columns: dict[str, list[Any]] = {
        name: random.choice(values, _NUM_ROWS).tolist() for name, values in encoding.vocabulary.items()
    }
    columns |= {name: random.uniform(0, 100, _NUM_ROWS).round(1).tolist() for name in encoding.numeric}
    categorical_BC, numeric_BN = encoding.encode(columns)
    task = task_of(spec)
    torch.manual_seed(1)
    network = build_tabular(
        NetworkInputs(
            num_categories=[len(values) + 1 for values in encoding.vocabulary.values()],
            numeric_BN=numeric_BN,
            head=task.head(random.normal(0, 5, _NUM_ROWS)),
            training=spec.training.model_copy(update={"hidden": tuple(hidden)}),
        )
    ).eval()
    graph = export_onnx(network, task=task, categorical_BC=categorical_BC[:64], numeric_BN=numeric_BN[:64])
    return ServedGraph(graph=graph, encoding=encoding, columns=columns)
