"""No input stops the server or leaks a traceback; what it refuses, it refuses for a reason, by field."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import struct
import zlib
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from include.errors import OverloadError
from include.serving.client import infer_body
from include.serving.limits import Admission, RateError
from tests.running import MODEL, RunningModelServer
from tests.tiny_models import fill_online_store, request_columns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.lake.storage import Storage

NUM_MUTATIONS = 800
INFER = f"/v2/models/{MODEL}/infer"
JSON_BYTES = "Inference-Header-Content-Length"
ODD: list[Any] = [
    *(None, True, 0, -1, 2**63, 2**64, 10**400, 1.5, -1e308, 1e-320, "", "x" * 300, "\x00", "\ud800", "é"),
    *([], [[]], {}, {"a": 1}, [None], [1, 2, 3], ["a"], [True], [1e39], [2**70]),
]


@pytest.fixture
def connection(champion: RunningModelServer) -> Iterator[http.client.HTTPConnection]:
    found = http.client.HTTPConnection("127.0.0.1", champion.port, timeout=20)
    yield found
    found.close()


def ask(
    connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str] | None = None, path: str = INFER
) -> tuple[int, Any]:
    connection.request("POST", path, body, headers or {})
    response = connection.getresponse()
    text = response.read()
    if response.headers.get(JSON_BYTES):
        text = text[: int(response.headers[JSON_BYTES])]
    return response.status, json.loads(text)


def as_binary(document: dict[str, Any]) -> tuple[bytes, int]:
    """Return the document with its numbers and strings behind it, and the length of its JSON."""
    raw, inputs = b"", []
    for tensor in document["inputs"]:
        values = tensor["data"]
        if tensor["datatype"] == "BYTES":
            tail = b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)
        else:
            tail = struct.pack(f"<{len(values)}{'q' if tensor['datatype'] == 'INT64' else 'd'}", *values)
        raw += tail
        rest = {name: value for name, value in tensor.items() if name != "data"}
        inputs.append({**rest, "parameters": {"binary_data_size": len(tail)}})
    head = json.dumps({**document, "inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return head + raw, len(head)


def spoil_document(chance: random.Random, node: Any) -> Any:
    """Return the JSON with one node, found by walking down at random, replaced, removed or doubled."""
    if not isinstance(node, dict | list) or not node or chance.random() < 0.15:
        return chance.choice(ODD)
    if isinstance(node, dict):
        name = chance.choice(list(node))
        if chance.random() < 0.1:
            return {key: value for key, value in node.items() if key != name}
        return {**node, name: spoil_document(chance, node[name])}
    at = chance.randrange(len(node))
    if chance.random() < 0.1:
        return [*node, node[at]]
    return [*node[:at], spoil_document(chance, node[at]), *node[at + 1 :]]


def spoil_bytes(chance: random.Random, body: bytes) -> bytes:
    """Return the bytes with some of them changed, cut off, or put in."""
    at = chance.randrange(len(body))
    odd = chance.randbytes(chance.choice((1, 4, 8)))
    return chance.choice((body[:at], body[at:], body[:at] + odd + body[at:], body[:at] + odd + body[at + len(odd) :]))


def mutation(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    """Return one more or less spoilt request."""
    document: Any = infer_body(columns=request_columns(chance.choice((1, 3))), request_id="r", sticky_key="k")
    if chance.random() < 0.5:
        body, size = as_binary(document)
        headers = {
            JSON_BYTES: str(chance.choice((size, size, size, size + 1, size - 1, 0, -1, 10**30, "9" * 5000, "x")))
        }
        if chance.random() < 0.5:
            head = json.dumps(spoil_document(chance, json.loads(body[:size]))).encode()
            body, headers = head + body[size:], {JSON_BYTES: str(len(head))}
    else:
        body, headers = json.dumps(spoil_document(chance, document)).encode(), {}
    if chance.random() < 0.4:
        body = spoil_bytes(chance, body)
    if chance.random() < 0.1:
        encoding = chance.choice(("gzip", "deflate"))
        body = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
        headers["Content-Encoding"] = encoding
        if chance.random() < 0.3:
            body = spoil_bytes(chance, body)
    return body, headers


def test_no_mutation_of_a_request_stops_the_server(
    champion: RunningModelServer, connection: http.client.HTTPConnection
) -> None:
    chance = random.Random(20130101)
    size = len(champion.log)
    statuses: dict[int, int] = {}
    for number in range(NUM_MUTATIONS):
        body, headers = mutation(chance)
        status, answer = ask(connection, body, headers)
        statuses[status] = statuses.get(status, 0) + 1
        assert status in {200, 400, 413}, (number, body[:500], headers, answer)
        if status != 200:
            assert answer["kind"] == "BadInputError", (number, answer)
            assert "Nothing was" in answer["error"], (number, answer)
    assert statuses[200] > NUM_MUTATIONS / 50
    assert statuses[400] > NUM_MUTATIONS / 2
    assert "Traceback" not in champion.log[size:]
    assert champion.process is not None
    assert champion.process.poll() is None
    good = json.dumps(infer_body(columns=request_columns(1))).encode()
    assert ask(connection, good)[0] == 200


def test_admin_calls_take_no_harm_from_odd_bodies(
    champion: RunningModelServer, connection: http.client.HTTPConnection
) -> None:
    headers = champion.client.admin_headers()
    size = len(champion.log)
    for path in (
        f"/v2/repository/models/{MODEL}/load",
        f"/v2/repository/models/{MODEL}/unload",
        "/v2/repository/index",
    ):
        for odd in (b"{", b"[]", b"\xff", b'{"parameters": 3, "ready": 3}', b"[" * 100_000):
            status, answer = ask(connection, odd, headers, path)
            assert 400 <= status < 500, (path, odd[:50], answer)
    assert "Traceback" not in champion.log[size:]
    assert champion.client.infer(model=MODEL, columns=request_columns(1))["model_version"] == "1"


NINES = "9" * 5000  # more digits than Python makes a number of


@pytest.mark.parametrize(
    "sent",
    ["", "0", "-1", "+1", "1.0", "1e2", "1_0", " ", "x", "\u0661", "\u00b2", "9" * 30, NINES, "0" * 19 + "1" + NINES],
)
def test_a_length_that_is_none_is_refused(
    champion: RunningModelServer, connection: http.client.HTTPConnection, sent: str
) -> None:
    size = len(champion.log)
    body = json.dumps(infer_body(columns=request_columns(1))).encode()
    connection.putrequest("POST", INFER)
    connection.putheader("Content-Length", str(len(body)))
    connection.putheader(JSON_BYTES, sent.encode())
    connection.endheaders(body)
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert (response.status, list(answer["fields"])) == (400, [JSON_BYTES])
    assert f"must be a number from 1 to the body's {len(body)} bytes; got" in answer["error"]
    assert "Traceback" not in champion.log[size:]


@pytest.mark.parametrize("digits", ["9" * 400, NINES, f"-{NINES}", f"1e{NINES}", "NaN", "Infinity", "\u0661"])
@pytest.mark.parametrize("at", ["shape", "data", "binary_data_size", "classification"])
def test_numbers_that_are_none_are_refused(
    champion: RunningModelServer, connection: http.client.HTTPConnection, at: str, digits: str
) -> None:
    size = len(champion.log)
    document: dict[str, Any] = infer_body(columns=request_columns(1))
    odd = "odd number"
    if at == "shape":
        document["inputs"][0]["shape"] = [odd]
    elif at == "data":
        document["inputs"][0]["data"] = [odd]
    elif at == "binary_data_size":
        document["inputs"][0]["parameters"] = {at: odd}
    else:
        document["outputs"] = [{"name": "probability", "parameters": {at: odd}}]
    body = json.dumps(document).replace(json.dumps(odd), digits).encode()
    status, answer = ask(connection, body, {JSON_BYTES: str(len(body))})
    assert (status, answer["kind"]) == (400, "BadInputError")
    assert "Traceback" not in champion.log[size:]


def test_labels_of_more_examples_than_there_are_are_refused(
    champion: RunningModelServer, connection: http.client.HTTPConnection
) -> None:
    labels = {"version": "2", "champion": "1", "num": 10**400, "total": 1.0, "total_squares": 1.0}
    path = f"/v2/router/{MODEL}/labels/2013-01"
    connection.request("PUT", path, json.dumps(labels), champion.client.admin_headers())
    response = connection.getresponse()
    assert (response.status, "num" in json.loads(response.read())["error"]) == (400, True)
    assert champion.client.get_routes(model=MODEL)["labels"] == {}


def test_every_field_that_is_wrong_is_named(connection: http.client.HTTPConnection) -> None:
    columns = {**request_columns(2), "carrier": ["AA", None], "distance": ["a", "b"]}
    document = {**infer_body(columns=columns), "parameters": {"sticky_key": "k"}}
    status, answer = ask(connection, json.dumps(document).encode())
    assert status == 400
    assert answer["fields"].keys() == {"carrier", "distance"}
    assert "got 1 null" in answer["fields"]["carrier"]
    assert answer["fields"]["carrier"] in answer["error"]
    good = infer_body(columns=request_columns(2))
    for spoilt, field in (
        ({**document, "id": 3}, "id"),
        ({**document, "parameters": {"sticky_key": ""}}, "parameters.sticky_key"),
        ({**document, "inputs": [{**document["inputs"][0], "shape": ["2"]}]}, "inputs[0].shape[0]"),
        ({**good, "outputs": [{"name": "score"}]}, "outputs"),
    ):
        status, answer = ask(connection, json.dumps(spoilt).encode())
        assert (status, list(answer["fields"])) == (400, [field])


def test_a_small_body_that_grows_without_end_is_refused(
    champion: RunningModelServer, connection: http.client.HTTPConnection
) -> None:
    assert champion.process is not None
    server = psutil.Process(champion.process.pid)
    before = server.memory_info().rss
    for encoding, bits in (("gzip", 31), ("deflate", 15)):
        packer = zlib.compressobj(9, zlib.DEFLATED, bits)
        bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(128)) + packer.flush()
        assert len(bomb) < (1 << 20)
        status, answer = ask(connection, bomb, {"Content-Encoding": encoding})
        assert (status, answer["kind"]) == (413, "BadInputError")
        whole = zlib.compress(b"{}")
        for odd in (b"", b"not compressed", whole[:-3], whole + b"more"):
            status, answer = ask(connection, odd, {"Content-Encoding": encoding})
            assert (status, list(answer["fields"])) == (400, ["Content-Encoding"])
    assert ask(connection, b"{}", {"Content-Encoding": "br"})[1]["fields"].keys() == {"Content-Encoding"}
    assert server.memory_info().rss - before < 64 << 20


def test_a_bucket_lets_a_seconds_worth_through_and_then_the_rate() -> None:
    now_s = 100.0
    admission = Admission(max_per_s=10.0, now_s=lambda: now_s)

    def num_let_through(num_sent: int) -> int:
        waits_s = []
        for _ in range(num_sent):
            try:
                admission.take()
            except RateError as error:
                waits_s.append(error.retry_after_s)
        assert all(0 < wait_s <= 0.1 for wait_s in waits_s)
        return num_sent - len(waits_s)

    assert num_let_through(50) == 10
    now_s += 0.55
    assert num_let_through(50) == 5
    now_s += 3600
    assert num_let_through(50) == 10


def test_a_rate_below_one_per_second_lets_one_through_at_a_time() -> None:
    now_s = 0.0
    admission = Admission(max_per_s=0.5, now_s=lambda: now_s)
    admission.take()
    with pytest.raises(RateError, match=r"takes 0\.5 requests per second; got more.*again in 2\.00 s"):
        admission.take()
    now_s = 2.0
    admission.take()


def test_more_than_may_wait_are_refused() -> None:
    admission = Admission(max_pending=2)
    admission.enter()
    admission.enter()
    with pytest.raises(OverloadError, match="lets 2 requests wait; got more"):
        admission.enter()
    admission.leave()
    admission.enter()


def test_only_inference_is_limited(tmp_path: Path, storage: Storage) -> None:
    fill_online_store(storage, {})
    server = RunningModelServer(folder=tmp_path / "server", storage=storage, arguments=("--max-requests-per-s", "0.01"))
    server.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        body = json.dumps(infer_body(columns=request_columns(1))).encode()
        assert ask(connection, body)[0] == 404
        connection.request("POST", INFER, body)
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert (response.status, answer["kind"]) == (429, "OverloadError")
        assert 90 <= int(response.headers["Retry-After"]) <= 100
        for path in ("/v2/health/ready", "/metrics", "/v2"):
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            assert response.status == 200
        server.client.get_all_routes()
    finally:
        connection.close()
        server.kill()
