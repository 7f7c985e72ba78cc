"""A model that is really trained, a good successor, and three regressions of it that pass their own golden rows.

Shape suffixes: B rows, F inputs, H hidden units.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from include.compression.quantize import quantize_int8
from tests.tiny_models import SPEC, request_columns, tiny_encoding

NUMERIC, CATEGORICAL = SPEC.features.numeric, SPEC.features.categorical
TEMP, DISTANCE = NUMERIC.index("temp"), NUMERIC.index("distance")
NUM_HIDDEN = 16
NUM_ROWS = 500
NUM_STEPS = 300
SLOW_SIZE = 448
NUM_PRODUCTS = 24


def columns(num_rows: int, *, seed: int) -> dict[str, list[Any]]:
    """Return a valid request with numbers of its own in each row."""
    rng = np.random.default_rng(seed)
    asked = request_columns(num_rows, first=seed * num_rows)
    drawn = rng.uniform(0, 50, (num_rows, 2)).tolist()
    return asked | {"temp": [row[0] for row in drawn], "distance": [row[1] for row in drawn]}


@cache
def train(seed: int) -> dict[str, np.ndarray]:
    """Return the weights of a small network that learned whether it is warmer than it is far, by Adam."""
    rng = np.random.default_rng(seed)
    x_BF = rng.uniform(0, 1, (NUM_ROWS, len(NUMERIC))).astype(np.float32)
    y_B = (x_BF[:, TEMP] > x_BF[:, DISTANCE]).astype(np.float32)
    weights = {
        "first_FH": rng.normal(0, 0.3, (len(NUMERIC), NUM_HIDDEN)),
        "bias_H": np.zeros(NUM_HIDDEN),
        "second_H1": rng.normal(0, 0.3, (NUM_HIDDEN, 1)),
    }
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in weights.items()}
    for step in range(1, NUM_STEPS + 1):
        hidden_BH = np.maximum(x_BF @ weights["first_FH"] + weights["bias_H"], 0)
        error_B1 = (1 / (1 + np.exp(-hidden_BH @ weights["second_H1"])) - y_B[:, None]) / NUM_ROWS
        back_BH = (error_B1 @ weights["second_H1"].T) * (hidden_BH > 0)
        found = {"first_FH": x_BF.T @ back_BH, "bias_H": back_BH.sum(0), "second_H1": hidden_BH.T @ error_B1}
        for name, gradient in found.items():
            mean, square = moments[name]
            mean[:] = 0.9 * mean + 0.1 * gradient
            square[:] = 0.999 * square + 0.001 * gradient**2
            scaled = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
            weights[name] = weights[name] - 0.05 * scaled
    return {name: value.astype(np.float32) for name, value in weights.items()}


def graph(weights: dict[str, np.ndarray], *, is_swapped: bool = False, is_slow: bool = False) -> bytes:
    """Return the network as ONNX; with temperature and distance exchanged, or with products that nobody needs."""
    order = np.arange(len(NUMERIC))
    if is_swapped:
        order[[TEMP, DISTANCE]] = DISTANCE, TEMP
    constants: dict[str, Any] = {**weights, "zero": np.float32(0), "scale": np.float32(50), "order": order}
    constants["one"] = np.array([1], dtype=np.int64)
    nodes = [
        helper.make_node("IsNaN", ["numeric"], ["is_missing"]),
        helper.make_node("Where", ["is_missing", "zero", "numeric"], ["filled"]),
        helper.make_node("Gather", ["filled", "order"], ["ordered"], axis=1),
        helper.make_node("Div", ["ordered", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "first_FH"], ["product"]),
        helper.make_node("Add", ["product", "bias_H"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second_H1"], ["logit_B1"]),
        helper.make_node("Squeeze", ["logit_B1", "one"], ["logit"]),
        helper.make_node("ReduceMean", ["filled"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["logit", "nothing"], ["asked"]),
        helper.make_node("Sigmoid", ["asked"], ["probability"]),
    ]
    if is_slow:
        constants["square"] = np.full((SLOW_SIZE, SLOW_SIZE), 1e-3, dtype=np.float32)
        nodes[10:11] = [
            helper.make_node("Add", ["square", "mean"], ["wide0"]),
            *(helper.make_node("MatMul", [f"wide{n}", "square"], [f"wide{n + 1}"]) for n in range(NUM_PRODUCTS)),
            helper.make_node("ReduceMean", [f"wide{NUM_PRODUCTS}"], ["slow"], keepdims=0),
            helper.make_node("Mul", ["slow", "zero"], ["nothing"]),
        ]
    made = helper.make_graph(
        nodes,
        "trained",
        [
            helper.make_tensor_value_info("categorical", TensorProto.INT64, ["B", len(CATEGORICAL)]),
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["B", len(NUMERIC)]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["B"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def damaged(graph_bytes: bytes) -> bytes:
    """Return an int8 graph whose first layer's weights are other bytes, as a bad disk or a bad export leaves them."""
    model = onnx.load_from_string(graph_bytes)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.INT8 and values.shape == (len(NUMERIC), NUM_HIDDEN):
            tensor.CopyFrom(numpy_helper.from_array(np.roll(values, 3, axis=0)[:, ::-1].copy(), tensor.name))
            return bytes(model.SerializeToString())
    raise AssertionError("the quantized graph must have the first layer in int8")


def golden_of(graph_bytes: bytes) -> bytes:
    """Return golden rows that record what this very graph answers."""
    asked = columns(20, seed=1)
    asked |= dict.fromkeys(SPEC.features.store_fields, [0.2] * 20)
    asked = {name: asked[name] for name in (*CATEGORICAL, *NUMERIC)}
    categorical_BC, numeric_BN = tiny_encoding().encode(asked)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # threads of a busy machine would wait for each other at each product
    session = onnxruntime.InferenceSession(graph_bytes, options, providers=["CPUExecutionProvider"])
    (probability_B,) = session.run(None, {"categorical": categorical_BC, "numeric": numeric_BN})
    return json.dumps({"columns": asked, "probability": probability_B.tolist(), "tolerance": 1e-3}).encode()


def package_of(kind: str) -> dict[str, bytes]:
    """Return the files of a package: champion, good, int8 (damaged), slow or swapped."""
    weights = train(seed=2 if kind == "good" else 1)
    made = graph(weights, is_swapped=kind == "swapped", is_slow=kind == "slow")
    if kind == "int8":
        made = damaged(quantize_int8(made))
    return {"model.onnx": made, "golden.json": golden_of(made)}
