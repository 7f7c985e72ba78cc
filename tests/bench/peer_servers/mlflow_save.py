"""Saves a graph as an MLflow model of the onnx flavour: `mlflow_save.py <graph.onnx> <folder>`."""

from __future__ import annotations

import sys

import mlflow.onnx
import numpy as np
import onnx
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

graph = onnx.load(sys.argv[1])
widths = {tensor.name: tensor.type.tensor_type.shape.dim[1].dim_value for tensor in graph.graph.input}
mlflow.onnx.save_model(
    graph,
    sys.argv[2],
    signature=ModelSignature(
        inputs=Schema(
            [
                TensorSpec(np.dtype(np.int64), (-1, widths["categorical"]), "categorical"),
                TensorSpec(np.dtype(np.float32), (-1, widths["numeric"]), "numeric"),
            ]
        ),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1,), graph.graph.output[0].name)]),
    ),
    onnx_execution_providers=["CPUExecutionProvider"],
    onnx_session_options={
        "execution_mode": "sequential",
        "intra_op_num_threads": 1,
        "inter_op_num_threads": 1,
        "graph_optimization_level": 99,
    },
    save_as_external_data=False,
)
