from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import BadInputError
from include.serving.client import infer_body
from include.serving.protocol import RequestReader, answer, metadata
from include.tasks.binary import BinaryClassification
from include.tasks.multiclass import MulticlassClassification
from include.tasks.regression import Regression
from tests.tiny_models import SPEC, request_columns

if TYPE_CHECKING:
    from collections.abc import Callable

READER = RequestReader.of(SPEC, max_rows=4)


def body(num_rows: int = 2, **extra: Any) -> dict[str, Any]:
    return {**infer_body(columns=request_columns(num_rows)), **extra}


def tensor(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in document["inputs"] if item["name"] == name)


def read(document: Any) -> Any:
    return READER.read(json.dumps(document).encode())


def answered(**given: Any) -> bytes:
    body, json_bytes = answer(model="m", version="3", request_id="r", **given)
    assert json_bytes is None
    return body


def test_a_good_request_becomes_columns() -> None:
    request = read(body(2, id="r1", parameters={"sticky_key": "k"}))
    assert (request.request_id, request.sticky_key, request.num_rows) == ("r1", "k", 2)
    assert request.example_ids == ["example-0", "example-1"]
    assert request.columns["carrier"] == ["AA", "B6"]
    assert request.columns["distance"] == [0.0, 1.0]
    assert set(request.columns) == {*(f.name for f in SPEC.features.request), "route", "tailnum"}


def test_what_is_optional_may_be_left_out() -> None:
    document = body()
    document["inputs"].remove(tensor(document, "example_id"))
    request = read(document)
    assert (request.request_id, request.sticky_key, request.example_ids) == (None, None, None)


def test_missing_values_are_null_where_the_spec_allows_them() -> None:
    document = body()
    tensor(document, "temp")["data"] = [None, 3.5]
    tensor(document, "tailnum")["data"] = ["N1", None]
    request = read(document)
    assert request.columns["temp"] == [None, 3.5]
    assert request.columns["tailnum"] == ["N1", None]


def test_a_column_of_nulls_has_no_datatype_of_its_own() -> None:
    columns = {**request_columns(1), "tailnum": [None], "temp": [None]}
    request = read(infer_body(columns=columns))
    assert request.columns["tailnum"] == [None]


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "INT8", "INT64", "UINT8", "UINT64"])
def test_numbers_come_in_any_numeric_datatype(datatype: str) -> None:
    document = body()
    tensor(document, "distance").update(datatype=datatype, data=[1, 2])
    assert read(document).columns["distance"] == [1.0, 2.0]


def rename(document: dict[str, Any]) -> None:
    tensor(document, "carrier")["name"] = "carier"


def drop(document: dict[str, Any]) -> None:
    document["inputs"].remove(tensor(document, "distance"))


def twice(document: dict[str, Any]) -> None:
    document["inputs"].append(tensor(document, "distance"))


def change(name: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: tensor(document, name).update(fields)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rename, r"allows the inputs .*; got 'carier' \(did you mean 'carrier'\?\)"),
        (drop, "got none named distance"),
        (twice, "each input once"),
        (change("distance", shape=[2, 1]), r"one shape \[rows\].*got 'distance' with shape \[2, 1\]"),
        (change("distance", shape=[3]), r"'distance' with shape \[3\] and 2 values"),
        (change("distance", shape=[3], data=[1.0, 2.0, 3.0]), r"'distance' with shape \[3\] and 3 values"),
        (change("distance", shape=[]), r"with shape \[\]"),
        (change("distance", datatype="BYTES"), "with datatype BOOL or UINT8 or .* or FP64; got 'BYTES'"),
        (change("carrier", datatype="FP32"), "'carrier' with datatype BYTES; got 'FP32'"),
        (change("distance", data=["a", "b"]), "needs numbers in 'distance'"),
        (change("distance", data=[1.0, "b"]), "needs numbers in 'distance'"),
        (change("carrier", data=["AA", 1]), "needs strings in 'carrier'"),
        (change("distance", data=[True, False]), "needs numbers in 'distance'"),
        (change("distance", data=[[1.0], [2.0]]), "got `array`"),
        (change("distance", data=[None, 1.0]), "a value in every row of 'distance'; got 1 null"),
        (change("carrier", data=[None, None]), "a value in every row of 'carrier'; got 2 null"),
        (change("distance", datatype="INT64", data=[1.5, 2]), "whole numbers in 'distance'"),
        (change("distance", data=[1e39, 1]), "numbers within float32"),
        (change("distance", data=[-1e39, 1]), "numbers within float32"),
        (change("example_id", data=["a", "a"]), "a different example_id in every row"),
        (change("example_id", data=["a", None]), "every row of 'example_id'"),
    ],
)
def test_a_bad_tensor_is_refused(spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    document = body()
    spoil(document)
    with pytest.raises(BadInputError, match=message) as caught:
        read(document)
    assert "Nothing was scored. GET /v2/models/flight_delays says what to send." in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `inputs`"),
        (b'{"inputs": []}', "length >= 1.* in inputs"),
        (b'{"inputs": [{"name": "distance", "datatype": "FP64", "shape": [1], "data": [NaN]}]}', "malformed"),
        (b'{"inputs": [{"name": "distance", "datatype": "FP64", "shape": [1], "data": [Infinity]}]}', "malformed"),
        (b'{"inputs": [{"name": "distance", "datatype": "FP64", "shape": [1], "data": [1e999]}]}', "out of range"),
        (b'{"inputs": [{"name": "distance", "datatype": "FP64", "shape": [1.5], "data": [1]}]}', "Expected `int`"),
    ],
)
def test_a_body_that_is_no_request_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        READER.read(text)


@pytest.mark.parametrize(("num_rows", "is_allowed"), [(0, False), (1, True), (4, True), (5, False)])
def test_the_number_of_rows_is_limited(num_rows: int, *, is_allowed: bool) -> None:
    if is_allowed:
        assert read(body(num_rows)).num_rows == num_rows
    else:
        with pytest.raises(BadInputError, match=f"1 to 4 rows; got {num_rows}"):
            read(body(num_rows))


@pytest.mark.parametrize("value", ["", "x" * 257, 3, ["a"]])
def test_a_sticky_key_is_a_short_text(value: Any) -> None:
    with pytest.raises(BadInputError, match=r"got: Expected `str.* in parameters\.sticky_key"):
        read(body(parameters={"sticky_key": value}))
    assert read(body(parameters={"sticky_key": "x" * 256})).sticky_key == "x" * 256


def test_the_answer_is_the_protocols() -> None:
    found = json.loads(answered(task=BinaryClassification(), predicted_BK=[0.25, 0.5]))
    output = {"name": "probability", "datatype": "FP32", "shape": [2], "data": [0.25, 0.5]}
    assert found == {"model_name": "m", "model_version": "3", "id": "r", "outputs": [output]}


def test_metadata_names_what_to_send() -> None:
    found = metadata(READER, versions=["1"])
    by_name = {item["name"]: item["datatype"] for item in found["inputs"]}
    assert by_name["carrier"] == "BYTES"
    assert by_name["distance"] == "FP64"
    assert by_name["tailnum"] == by_name["example_id"] == "BYTES"


def test_probabilities_of_classes_are_one_list_with_a_shape() -> None:
    task = MulticlassClassification(classes=("a", "b", "c"))
    rows = [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]
    found = json.loads(answered(task=task, predicted_BK=rows))
    (output,) = found["outputs"]
    assert (output["name"], output["shape"], output["data"]) == ("probabilities", [2, 3], [0.5, 0.25, 0.25, 0, 1, 0])
    assert output["parameters"] == {"classes": ["a", "b", "c"]}


def test_a_regression_answers_numbers() -> None:
    task = Regression(loss="squared_error", huber_delta=0.0)
    found = json.loads(answered(task=task, predicted_BK=[-4.5, 60.0]))
    assert found["outputs"] == [{"name": "prediction", "datatype": "FP32", "shape": [2], "data": [-4.5, 60.0]}]
