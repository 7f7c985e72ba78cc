"""ONNX graphs in onnxruntime, as the model server runs them.

Shape suffixes: B rows, C categorical inputs, N numeric inputs, K classes (absent where a row has one number).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.errors import CorruptArtifactError

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

_ERRORS_ONLY = 3
NO_WEIGHTS_OUTSIDE = ("session.model_external_initializers_file_folder_path", "/dev/null/none")
"""Session option for every graph: ONNX lets a tensor lie in a file beside it, which no digest of a package covers.

onnxruntime looks for that file in this folder instead of the process's own, and nothing can ever be there.
"""


def open_graph(graph: bytes) -> onnxruntime.InferenceSession:
    """Return a session on one CPU thread.

    Raises:
        CorruptArtifactError: The bytes are no graph, or not all its weights are in them.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry(*NO_WEIGHTS_OUTSIDE)
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no other base class
        raise CorruptArtifactError(
            f"the model's graph must be ONNX that onnxruntime loads, with all its weights; got {error}. Nothing was "
            "scored. Train it again."
        ) from error


def score(session: onnxruntime.InferenceSession, categorical_BC: np.ndarray, numeric_BN: np.ndarray) -> np.ndarray:
    """Return the prediction of each row, shape (B,) or (B, K): the graph's only output."""
    (predicted_BK,) = session.run(None, {"categorical": categorical_BC, "numeric": numeric_BN})
    return predicted_BK
