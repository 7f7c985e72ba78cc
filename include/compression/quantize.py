"""A graph with 8-bit weights."""

from __future__ import annotations

import tempfile
from pathlib import Path


def quantize_int8(graph: bytes) -> bytes:
    """Return the graph with embeddings and matrix products in int8, scaled while it runs.

    Activations need no calibration rows this way; onnxruntime calls it dynamic quantization.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder) / name for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        source.write_bytes(graph)
        # The symbolic part needs SymPy and finds nothing in a graph whose only free size is the number of rows.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(str(prepared), str(target), weight_type=QuantType.QInt8)
        return target.read_bytes()
