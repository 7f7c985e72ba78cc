"""A graph behind BentoML with adaptive batching: `bentoml serve bentoml_server:OnnxService`, the graph in $GRAPH."""

from __future__ import annotations

import os
from typing import Annotated

import bentoml
import numpy as np
import onnxruntime
from bentoml.validators import DType

MAX_BATCH_ROWS = 100
MAX_LATENCY_MS = 60_000


@bentoml.service(workers=1, threads=1, metrics={"enabled": True}, traffic={"timeout": 30})
class OnnxService:
    """Scores rows: the categorical inputs' indices first, then the numeric ones; a batchable call has one argument."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["GRAPH"], options, providers=["CPUExecutionProvider"])
        self.num_categorical = self.session.get_inputs()[0].shape[1]

    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=MAX_BATCH_ROWS, max_latency_ms=MAX_LATENCY_MS)
    def predict(self, rows: Annotated[np.ndarray, DType("float32")]) -> np.ndarray:
        """Return a number for each row."""
        categorical_BC = rows[:, : self.num_categorical].astype(np.int64)
        numeric_BN = np.ascontiguousarray(rows[:, self.num_categorical :])
        (predicted_B,) = self.session.run(None, {"categorical": categorical_BC, "numeric": numeric_BN})
        return predicted_B
