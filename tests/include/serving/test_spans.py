"""Spans of the real server, sent to a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from include.serving.client import infer_body
from include.serving.spans import NO_TRACE, tracing
from tests.running import MODEL, ROOT, RunningModelServer
from tests.tiny_models import request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from include.lake.storage import Storage

TRACE_ID, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
LOADED = "import include.serving.__main__, sys; print([name for name in sys.modules if 'opentelemetry' in name])"


class Collector(ThreadingHTTPServer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths: set[str] = set()
        self.services: set[str] = set()
        self.spans: list[Span] = []


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.paths.add(self.path)
        for of_resource in sent.resource_spans:
            self.server.services |= {
                a.value.string_value for a in of_resource.resource.attributes if a.key == "service.name"
            }
            self.server.spans += [span for scope in of_resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def server(tmp_path: Path, storage: Storage, collector: Collector) -> Iterator[RunningModelServer]:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    server = RunningModelServer(folder=tmp_path, storage=storage, arguments=("--otlp-endpoint", endpoint))
    server.reset()
    package = tiny_package(tmp_path / "package")
    server.client.load(model=MODEL, version="1", uri=package.uri, digest=package.digest)
    server.client.set_routes(model=MODEL, champion="1")
    yield server
    server.stop()


def post(server: RunningModelServer, body: dict[str, Any], **headers: str) -> int:
    url = f"{server.url}/v2/models/{MODEL}/infer"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(error.code)


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def test_a_request_is_traced_from_its_caller_to_its_stages(server: RunningModelServer, collector: Collector) -> None:
    body = infer_body(columns=request_columns(3), request_id="r1")
    assert post(server, body, traceparent=f"00-{TRACE_ID}-{CALLER}-01") == 200
    assert post(server, {"inputs": []}) == 400
    assert post(server, body, traceparent=f"00-{TRACE_ID[::-1]}-{CALLER}-00") == 200  # its caller samples others
    assert server.stop() == 0  # what waits is sent
    assert collector.paths == {"/v1/traces"}
    assert collector.services == {"tradewind-model-server"}
    of_caller = [span for span in collector.spans if span.trace_id.hex() == TRACE_ID]
    (root,) = [span for span in of_caller if span.name == "infer"]
    assert root.parent_span_id.hex() == CALLER
    assert attributes(root) == {"tradewind.model": MODEL, "http.response.status_code": 200}
    stages = sorted((span for span in of_caller if span is not root), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in stages] == ["wait", "decode", "features", "score", "log"]
    assert {span.parent_span_id for span in stages} == {root.span_id}
    times_ns = [root.start_time_unix_nano, *(span.end_time_unix_nano for span in stages), root.end_time_unix_nano]
    assert times_ns == sorted(times_ns)
    named = {span.name: attributes(span) for span in stages}
    assert named["decode"] == {"tradewind.rows": 3, "tradewind.request_id": "r1"}
    assert named["score"] == {"tradewind.version": "1", "tradewind.role": "champion"}
    (refused,) = [span for span in collector.spans if span.name == "infer" and span is not root]
    assert attributes(refused)["http.response.status_code"] == 400
    assert refused.status.code == 0  # a caller's mistake is no error of the server's
    assert {span.trace_id for span in collector.spans} == {root.trace_id, refused.trace_id}


def test_nothing_is_loaded_until_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert tracing(None) is None
    NO_TRACE.mark("decode", rows=1)
    NO_TRACE.end(status=200)
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_standard_variables_ask_and_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    found = tracing(None)
    assert found is not None
    found.close()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing("http://127.0.0.1:9") is None
