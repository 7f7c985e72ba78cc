"""The model server as the inference protocol's public client meets it: tritonclient, unchanged."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from include.serving.client import infer_body
from tests.running import MODEL, ROOT
from tests.tiny_models import request_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.running import RunningModelServer

NUMBERS = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@pytest.fixture
def client(champion: RunningModelServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{champion.port}") as found:
        yield found


def inputs(num_rows: int = 3, *, is_binary: bool = True, **changes: Any) -> list[Any]:
    """Return what tritonclient sends for the tests' rows; `changes` are (datatype, values) of an input."""
    tensors = []
    columns = request_columns(num_rows)
    typed = {item["name"]: (item["datatype"], item["data"]) for item in infer_body(columns=columns)["inputs"]}
    for name, (datatype, values) in {**typed, **changes}.items():
        array: np.ndarray = np.array(values, dtype=object if datatype == "BYTES" else NUMBERS[datatype])
        tensor = triton.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=is_binary)
        tensors.append(tensor)
    return tensors


def output(*, is_binary: bool, name: str = "probability") -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=is_binary)]


def test_the_example_of_the_page_runs(champion: RunningModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "pages" / "model-server.md").read_text()
    example = page.partition("```python\n")[2].partition("```")[0]
    assert '"127.0.0.1:8500"' in example
    exec(example.replace("127.0.0.1:8500", f"127.0.0.1:{champion.port}"), {})
    version, _, score = capsys.readouterr().out.partition(" ")
    assert version == "1"
    assert 0 < float(score.strip("[] \n")) < 1


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("unknown")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(MODEL, "1")
    assert (metadata["name"], metadata["versions"]) == (MODEL, ["1"])
    assert metadata["outputs"] == [{"name": "probability", "datatype": "FP32", "shape": [-1]}]
    with pytest.raises(InferenceServerException, match="must be loaded to be named"):
        client.get_model_metadata(MODEL, "2")


def test_json_and_binary_are_answered_alike(champion: RunningModelServer, client: triton.InferenceServerClient) -> None:
    wanted = champion.client.infer(model=MODEL, columns=request_columns(3))["outputs"][0]["data"]
    forms = ((None, False), (output(is_binary=True), False), (output(is_binary=False), True))
    for sends_binary, (outputs, is_json) in itertools.product((True, False), forms):
        found = client.infer(MODEL, inputs(is_binary=sends_binary), outputs=outputs, request_id="r1")
        assert found.as_numpy("probability").tolist() == pytest.approx(wanted)
        answer = found.get_response()
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r1", MODEL, "1")
        assert ("data" in answer["outputs"][0]) is is_json


def test_every_numeric_datatype_means_the_same_number(client: triton.InferenceServerClient) -> None:
    def ask(datatype: str, *, is_binary: bool) -> list[float]:
        sent = inputs(2, is_binary=is_binary, temp=(datatype, [1, 0]))
        return list(client.infer(MODEL, sent).as_numpy("probability"))

    answers = {
        (datatype, is_binary): ask(datatype, is_binary=is_binary) for datatype in NUMBERS for is_binary in (True, False)
    }
    assert [found for found in answers.values() if found != answers["FP64", False]] == []


def test_missing_values_have_their_signs_in_binary(
    champion: RunningModelServer, client: triton.InferenceServerClient
) -> None:
    columns = {**request_columns(2), "temp": [None, 3.5], "tailnum": ["N1", None]}
    wanted = champion.client.infer(model=MODEL, columns=columns)["outputs"][0]["data"]
    sent = inputs(2, temp=("FP32", [np.nan, 3.5]), tailnum=("BYTES", ["N1", ""]))
    assert client.infer(MODEL, sent).as_numpy("probability").tolist() == pytest.approx(wanted)


def test_compressed_requests_are_read(client: triton.InferenceServerClient) -> None:
    plain = client.infer(MODEL, inputs()).as_numpy("probability")
    for algorithm in ("gzip", "deflate"):
        found = client.infer(
            MODEL, inputs(), request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
        )
        assert (found.as_numpy("probability") == plain).all()


def test_a_sticky_key_is_a_parameter(
    champion: RunningModelServer, client: triton.InferenceServerClient, load: Callable[..., str]
) -> None:
    champion.client.set_routes(model=MODEL, champion="1", canary=load("2", bias=1.0), canary_share_pct=50.0)

    def version(key: str) -> str:
        sent = client.infer(MODEL, inputs(1), parameters={"sticky_key": key})
        return str(sent.get_response()["model_version"])

    chosen = {key: version(key) for key in map(str, range(20))}
    assert set(chosen.values()) == {"1", "2"}
    assert {key: version(key) for key in chosen} == chosen


def test_a_named_version_answers_and_is_no_evidence(
    champion: RunningModelServer, client: triton.InferenceServerClient, load: Callable[..., str]
) -> None:
    champion.client.set_routes(model=MODEL, champion="1", shadow=load("2", bias=1.0))
    found = client.infer(MODEL, inputs(), model_version="2").get_response()
    assert found["model_version"] == "2"
    counted = {item["role"]: item["requests"] for item in champion.client.get_routes(model=MODEL)["counters"]}
    assert counted == {"named": 1}  # and no copy for the shadow
    with pytest.raises(InferenceServerException, match="version '3' of model 'flight_delays' must be loaded") as caught:
        client.infer(MODEL, inputs(), model_version="3")
    assert caught.value.status() == "404"


def test_a_bad_request_is_refused_with_its_reason(client: triton.InferenceServerClient) -> None:
    for sent, outputs, message in (
        (inputs(2, carrier=("BYTES", ["AA", ""])), None, "a value in every row of 'carrier'; got 1 null"),
        (inputs(2, carrier=("BYTES", [b"\xff", "AA"])), None, "'carrier', which 'utf-8' codec can't decode"),
        (inputs(2, carrier=("FP32", [1, 2])), None, "'carrier' with datatype BYTES; got 'FP32'"),
        (inputs(2, distance=("FP32", [np.inf, 2])), None, "numbers within float32 in 'distance'"),
        (inputs(2, distance=("FP32", [[1], [2]])), None, r"'distance', which must have shape .*; got shape \[2, 1\]"),
        (inputs(2, distance=("FP32", [1])), None, r"'distance' with shape \[1\]"),
        (inputs(2)[1:], None, "got none named"),
        (inputs(2), output(is_binary=True, name="score"), "the output 'probability' once; got 'score'"),
    ):
        with pytest.raises(InferenceServerException, match=message) as caught:
            client.infer(MODEL, sent, outputs=outputs)
        assert caught.value.status() == "400"
