"""Two graphs on the same rows and the same core, run by run in turn.

Shape suffixes: B rows, C categorical inputs, N numeric inputs, K classes (absent where a row has one number).
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.compression.gate import Comparison, GraphMetrics
from include.compression.graphs import open_graph, score
from include.training.evaluate import measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import onnxruntime

    from include.tasks import Task

REQUEST_ROWS = (1, 32)
"""Rows of the requests that are timed; the gate looks at the smallest, which is what waits for an answer."""

NUM_RUNS = 300
_NUM_WARM_UPS = 20


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Encoded rows and their labels as numbers."""

    categorical_BC: np.ndarray
    numeric_BN: np.ndarray
    label_B: np.ndarray


def compare(*, fp32: bytes, int8: bytes, rows: HeldOut, task: Task, tolerance: float | None) -> Comparison:
    """Measure quality, size and latency of two graphs of one network.

    Args:
        fp32: The graph that was trained.
        int8: The compressed one.
        rows: What they are measured on.
        task: What their predictions are.
        tolerance: By how much two predictions of a regression may differ and still agree, in the label's unit.

    Raises:
        CorruptArtifactError: One of them is no graph.
    """
    import numpy as np

    graphs = {"fp32": fp32, "int8": int8}
    sessions = {name: open_graph(graph) for name, graph in graphs.items()}
    inputs = (rows.categorical_BC, rows.numeric_BN)
    scores = {name: score(session, *inputs) for name, session in sessions.items()}
    latency_us: dict[str, dict[int, float]] = {name: {} for name in graphs}
    for num_rows in REQUEST_ROWS:
        found = _latency_us(tuple(sessions.values()), *(x[-num_rows:] for x in inputs))
        for name, median in zip(sessions, found, strict=True):
            latency_us[name][num_rows] = median
    metrics = {
        name: GraphMetrics(
            metrics=measure(task=task, label_B=rows.label_B, predicted_BK=scores[name]),
            size_bytes=len(graph),
            latency_us=latency_us[name],
        )
        for name, graph in graphs.items()
    }
    return Comparison(
        num_rows=len(rows.label_B),
        loss_name=task.loss_name,
        fp32=metrics["fp32"],
        int8=metrics["int8"],
        agreement_frac=float(np.mean(task.agree(scores["fp32"], scores["int8"], tolerance=tolerance))),
        max_abs_diff=float(np.max(np.abs(scores["fp32"] - scores["int8"]))),
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
