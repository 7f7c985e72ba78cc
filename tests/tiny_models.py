"""Real model packages, an online store and requests, small enough that a test makes its own."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from include.features.encoding import Encoding
from include.features.feast_layout import encode_value, entity_key, key_prefix, table_name, to_stored_time
from include.registry.package import Package, write_package
from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.lake.storage import Storage
    from include.spec import ModelSpec

SPEC = load_spec("flight_delays")
FRAGILE_DISTANCE = 9000.0
"""A fragile model answers NaN for flights that are longer than this many miles."""

VOCABULARY = {
    "carrier": ("AA", "B6", "UA"),
    "origin": ("EWR", "JFK", "LGA"),
    "dest": ("LAX", "ORD", "SFO"),
    "day_of_week": ("1", "2", "3", "4", "5", "6", "7"),
}


def tiny_encoding(spec: ModelSpec = SPEC) -> Encoding:
    return Encoding(
        vocabulary={name: VOCABULARY.get(name, ("a",)) for name in spec.features.categorical},
        numeric=spec.features.numeric,
    )


def tiny_graph(*, bias: float = -1.0, is_fragile: bool = False, spec: ModelSpec = SPEC) -> bytes:
    """Return sigmoid(bias + carrier's and temperature's share), as ONNX; `is_fragile` makes long flights NaN."""
    numeric = list(spec.features.numeric)
    weights = np.zeros((len(numeric), 1), dtype=np.float32)
    weights[numeric.index("carrier_late_frac_28d")] = 1.0
    weights[numeric.index("temp")] = 0.01
    limit = FRAGILE_DISTANCE if is_fragile else 1e30
    constants = {
        "zero": np.float32(0),
        "weights": weights,
        "category_weight": np.float32(0.05),
        "bias": np.float32(bias),
        "limit": np.float32(limit),
        "distance_at": np.int64(numeric.index("distance")),
        "rows": np.array([1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("IsNaN", ["numeric"], ["is_missing"]),
        helper.make_node("Where", ["is_missing", "zero", "numeric"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["linear_B1"]),
        helper.make_node("Squeeze", ["linear_B1", "rows"], ["linear"]),
        helper.make_node("Cast", ["categorical"], ["indices"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["indices", "rows"], ["category_sum"], keepdims=0),
        helper.make_node("Mul", ["category_sum", "category_weight"], ["category"]),
        helper.make_node("Add", ["linear", "category"], ["both"]),
        helper.make_node("Add", ["both", "bias"], ["logit"]),
        helper.make_node("Gather", ["filled", "distance_at"], ["distance"], axis=1),
        helper.make_node("Sub", ["limit", "distance"], ["room"]),
        helper.make_node("Log", ["room"], ["log_room"]),
        helper.make_node("Mul", ["log_room", "zero"], ["zero_or_nan"]),
        helper.make_node("Add", ["logit", "zero_or_nan"], ["checked"]),
        helper.make_node("Sigmoid", ["checked"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("categorical", TensorProto.INT64, ["B", len(spec.features.categorical)]),
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["B", len(numeric)]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["B"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny_package(
    uri: str | Path,
    *,
    bias: float = -1.0,
    is_fragile: bool = False,
    golden_error: float = 0.0,
    replaced: Mapping[str, bytes] | None = None,
    spec: ModelSpec = SPEC,
) -> Package:
    """Write a package whose golden scores are right, or off by `golden_error`; `replaced` files win over the real."""
    encoding, graph = tiny_encoding(spec), tiny_graph(bias=bias, is_fragile=is_fragile, spec=spec)
    columns = {**request_columns(20, spec=spec), **dict.fromkeys(spec.features.store_fields, [0.2] * 19 + [None])}
    columns = {name: columns[name] for name in (*spec.features.categorical, *spec.features.numeric)}
    categorical_BC, numeric_BN = encoding.encode(columns)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (probability_B,) = session.run(None, {"categorical": categorical_BC, "numeric": numeric_BN})
    golden = {
        "columns": columns,
        "probability": [float(p) + golden_error for p in probability_B],
        "tolerance": 1e-3,
    }
    contents = {
        "model.onnx": graph,
        "encoding.json": encoding.to_json().encode(),
        "golden.json": json.dumps(golden).encode(),
    }
    return write_package(str(uri), model=spec.name, job_key="test", contents={**contents, **(replaced or {})})


def request_columns(num_rows: int, *, spec: ModelSpec = SPEC, first: int = 0) -> dict[str, list[Any]]:
    """Return valid rows of a request: request features, entities, and an example_id."""
    numbers = range(first, first + num_rows)
    columns: dict[str, list[Any]] = {}
    for feature in spec.features.request:
        known = VOCABULARY.get(feature.name, ("a",))
        is_categorical = feature.kind == "categorical"
        columns[feature.name] = [known[n % len(known)] if is_categorical else float(n % 50) for n in numbers]
    columns["route"] = [f"{origin}-{dest}" for origin, dest in zip(columns["origin"], columns["dest"], strict=True)]
    columns["tailnum"] = [f"N{n % 7}" for n in numbers]
    columns["example_id"] = [f"example-{n}" for n in numbers]
    return columns


def fill_online_store(
    storage: Storage, values: Mapping[str, Mapping[str, Sequence[float]]], *, spec: ModelSpec = SPEC
) -> None:
    """Write view -> entity value -> field values into Feast's SQLite tables, as a materialization would."""
    path = Path(storage.feast()) / "online.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    at = to_stored_time(datetime(2013, 4, 1, 4, tzinfo=UTC))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for view, declared in spec.features.store.items():
            table = table_name(project=spec.name, view=view)
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT, "
                "vector_value BLOB, event_ts timestamp, created_ts timestamp, PRIMARY KEY(entity_key, feature_name))"
            )
            prefix = key_prefix(declared.entity)
            rows = [
                (entity_key(prefix, entity), field, encode_value(value), at, at)
                for entity, of_entity in values.get(view, {}).items()
                for field, value in zip(declared.fields, of_entity, strict=True)
            ]
            connection.executemany(
                f"INSERT OR REPLACE INTO {table} (entity_key, feature_name, value, event_ts, created_ts) "
                "VALUES (?, ?, ?, ?, ?)",
                rows,
            )
