"""A graph as onnxruntime runs it: on what, with how many threads, and whether its rows know nothing of each other.

Shape suffixes: B rows, C categorical inputs, N numeric inputs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from include.compression.graphs import NO_WEIGHTS_OUTSIDE
from include.errors import SetupError

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

    from include.spec.serving import ServingSpec

_LOG = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_SCALED_BY_ALL_ROWS = b"DynamicQuantize"
"""What the operators begin with (DynamicQuantizeLinear, -MatMul, -LSTM) whose scale is of all rows of a tensor."""


class Session(NamedTuple):
    """An opened graph.

    Args:
        session: It.
        provider: What it runs on, in the spec's words.
        is_row_wise: Whether a row's answer is, to the bit, the same whatever other rows are scored with it.
    """

    session: onnxruntime.InferenceSession
    provider: str
    is_row_wise: bool


def open_session(graph: bytes, *, serving: ServingSpec, named: str) -> Session:
    """Return a graph, ready to run.

    Args:
        graph: ONNX.
        serving: Of the model's spec.
        named: What it is, for messages.

    Raises:
        SetupError: It must run on a GPU, and there is none that onnxruntime can use.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = serving.intra_op_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to others
    options.add_session_config_entry(*NO_WEIGHTS_OUTSIDE)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    found = None
    if serving.provider != "cpu":
        found = _on_cuda(graph, options, serving=serving, named=named)
    if found is not None:
        return Session(found, "cuda", is_row_wise=_SCALED_BY_ALL_ROWS not in graph)
    session = onnxruntime.InferenceSession(graph, options, providers=[CPU])
    return Session(session, "cpu", is_row_wise=_SCALED_BY_ALL_ROWS not in graph)


def _on_cuda(
    graph: bytes, options: onnxruntime.SessionOptions, *, serving: ServingSpec, named: str
) -> onnxruntime.InferenceSession | None:
    """Return the graph on a GPU; None: there is none, and the CPU will do."""
    import onnxruntime

    reason = f"onnxruntime has only {', '.join(onnxruntime.get_available_providers())}"
    if CUDA in onnxruntime.get_available_providers():
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=[CUDA, CPU])
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors share no other base
            reason = str(error)
        else:
            if CUDA in session.get_providers():
                return session
            reason = "no GPU that CUDA finds, or a library of CUDA is missing"
    if serving.provider == "cuda":
        raise SetupError(
            f"{named} must run on a GPU, as serving.provider of model.yaml says; got {reason}. Nothing was loaded. "
            "Serve it on a machine with a GPU, or set the provider to auto or cpu."
        )
    _LOG.warning("%s runs on the CPU, as serving.provider auto allows: %s", named, reason)
    return None


def has_equal_rows(
    session: onnxruntime.InferenceSession, output: str, categorical_BC: np.ndarray, numeric_BN: np.ndarray
) -> bool:
    """Return whether rows are answered together, in halves and alone by the same bits.

    It also runs the graph at the sizes that it will meet, so that no caller waits for its first allocations.
    """
    import numpy as np

    num_rows = len(categorical_BC)
    if num_rows < 2:  # noqa: PLR2004 - one row has no neighbour to differ by
        return False
    together_BK = _answers(session, output, categorical_BC, numeric_BN)
    for size in sorted({1, 2, 8, num_rows // 2}):
        parts = [
            _answers(session, output, categorical_BC[at : at + size], numeric_BN[at : at + size])
            for at in range(0, num_rows, size)
        ]
        if not np.array_equal(np.concatenate(parts), together_BK, equal_nan=True):
            return False
    return True


def _answers(
    session: onnxruntime.InferenceSession, output: str, categorical_BC: np.ndarray, numeric_BN: np.ndarray
) -> np.ndarray:
    import numpy as np

    (raw,) = session.run([output], {"categorical": categorical_BC, "numeric": numeric_BN})
    return np.asarray(raw)
