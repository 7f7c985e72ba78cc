from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import BadInputError, CorruptArtifactError, NotFoundError, ServiceError, SetupError
from include.serving.client import ModelServerClient, infer_body
from tests.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def answering() -> Iterator[Callable[..., ModelServerClient]]:
    """Return a function that starts a server with one answer, and returns its client."""
    servers: list[http.server.HTTPServer] = []

    def start(status: int, body: bytes) -> ModelServerClient:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Stay quiet."""

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return ModelServerClient(base_url=f"http://127.0.0.1:{server.server_port}", admin_token="t")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "BadInputError", BadInputError),
        (404, "NotFoundError", NotFoundError),
        (422, "CorruptArtifactError", CorruptArtifactError),
        (503, "ServiceError", ServiceError),
        (500, "KeyError", ServiceError),  # a kind that is none of ours
        (500, "Any", ServiceError),  # a name in the module that is no error
        (500, None, ServiceError),
        (401, "SetupError", SetupError),
        (403, None, SetupError),
    ],
)
def test_an_error_is_raised_as_the_class_that_the_server_named(
    answering: Callable[..., ModelServerClient], status: int, kind: str | None, expected: type[Exception]
) -> None:
    client = answering(status, json.dumps({"error": "what happened", "kind": kind}).encode())
    with pytest.raises(expected, match="what happened") as caught:
        client.get_routes(model="m")
    assert type(caught.value) is expected


def test_an_answer_that_is_no_json_is_quoted(answering: Callable[..., ModelServerClient]) -> None:
    with pytest.raises(ServiceError, match="<html>bad gateway"):
        answering(502, b"<html>bad gateway").get_routes(model="m")


def test_a_server_that_is_not_there_is_named() -> None:
    client = ModelServerClient(base_url="http://127.0.0.1:1")
    with pytest.raises(ServiceError, match=r"model server http://127.0.0.1:1 must answer GET /v2/router/m"):
        client.get_routes(model="m")
    assert client.is_ready() is False


@pytest.mark.parametrize(
    "base_url",
    ["", "http://host", "http://host:None", "http://host:", "http://:80", "host:80", "ftp://host:80", "http://h:65536"],
)
def test_an_address_that_no_server_can_have_is_refused(base_url: str) -> None:
    with pytest.raises(SetupError, match=f"with host and port, .*; got {base_url}. Nothing was asked"):
        ModelServerClient(base_url=base_url)


@pytest.mark.parametrize(
    "base_url", ["http://host:1", "https://host:65535", "http://[::1]:80", "http://host:80/under/"]
)
def test_an_address_that_a_server_can_have_is_not(base_url: str) -> None:
    assert ModelServerClient(base_url=base_url).base_url == base_url


def test_the_token_is_never_shown() -> None:
    assert "secret" not in repr(ModelServerClient(base_url="http://x:1", admin_token="secret"))


@pytest.mark.parametrize(
    ("values", "datatype"),
    [
        (["a", None], "BYTES"),
        ([1, 2], "INT64"),
        ([1, None], "FP64"),
        ([1, 2.5], "FP64"),
        ([None], "FP64"),
        ([], "FP64"),
    ],
)
def test_a_column_becomes_a_tensor(values: list[Any], datatype: str) -> None:
    (tensor,) = infer_body(columns={"x": values})["inputs"]
    assert tensor == {"name": "x", "datatype": datatype, "shape": [len(values)], "data": values}


def test_import_is_light() -> None:
    code = "import sys, include.serving.client; print(sorted({'aiohttp', 'requests', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
