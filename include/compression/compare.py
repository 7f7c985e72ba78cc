"""Two graphs on the same rows and the same core, run by run in turn.

Shape suffixes: B rows, C categorical inputs, N numeric inputs.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from include.compression.gate import Comparison, GraphMetrics
from include.compression.graphs import open_graph, score
from include.training.metrics import auc, expected_calibration_error, log_loss

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import onnxruntime

REQUEST_ROWS = (1, 32)
"""Rows of the requests that are timed; the gate looks at the smallest, which is what waits for an answer."""

NUM_RUNS = 300
_NUM_WARM_UPS = 20


def compare(
    *, fp32: bytes, int8: bytes, categorical_BC: np.ndarray, numeric_BN: np.ndarray, label_B: np.ndarray
) -> Comparison:
    """Measure quality, size and latency of two graphs of one network.

    Raises:
        CorruptArtifactError: One of them is no graph.
    """
    import numpy as np

    graphs = {"fp32": fp32, "int8": int8}
    sessions = {name: open_graph(graph) for name, graph in graphs.items()}
    scores = {name: score(session, categorical_BC, numeric_BN) for name, session in sessions.items()}
    latency_us: dict[str, dict[int, float]] = {name: {} for name in graphs}
    for num_rows in REQUEST_ROWS:
        found = _latency_us(tuple(sessions.values()), categorical_BC[-num_rows:], numeric_BN[-num_rows:])
        for name, median in zip(sessions, found, strict=True):
            latency_us[name][num_rows] = median
    metrics = {
        name: _metrics(graph, label_B=label_B, probability_B=scores[name], latency_us=latency_us[name])
        for name, graph in graphs.items()
    }
    return Comparison(
        num_rows=len(label_B),
        fp32=metrics["fp32"],
        int8=metrics["int8"],
        agreement_frac=float(np.mean((scores["fp32"] >= 0.5) == (scores["int8"] >= 0.5))),  # noqa: PLR2004 - even odds
        max_abs_diff=float(np.max(np.abs(scores["fp32"] - scores["int8"]))),
    )


def _metrics(
    graph: bytes, *, label_B: np.ndarray, probability_B: np.ndarray, latency_us: Mapping[int, float]
) -> GraphMetrics:
    return GraphMetrics(
        log_loss=log_loss(label_B=label_B, probability_B=probability_B),
        auc=auc(label_B=label_B, probability_B=probability_B),
        ece=expected_calibration_error(label_B=label_B, probability_B=probability_B),
        size_bytes=len(graph),
        latency_us=latency_us,
    )


def _latency_us(
    sessions: Sequence[onnxruntime.InferenceSession], categorical_BC: np.ndarray, numeric_BN: np.ndarray
) -> list[float]:
    """Return each session's median microseconds; in turn, so that what else runs on the machine hits both alike."""
    seconds: list[list[float]] = [[] for _ in sessions]
    for run in range(_NUM_WARM_UPS + NUM_RUNS):
        for session, spent in zip(sessions, seconds, strict=True):
            started = time.perf_counter()
            score(session, categorical_BC, numeric_BN)
            if run >= _NUM_WARM_UPS:
                spent.append(time.perf_counter() - started)
    return [statistics.median(spent) * 1e6 for spent in seconds]
