from __future__ import annotations

import http.server
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from include.demo.flights import MODEL
from include.demo.traffic import Traffic
from include.errors import ServiceError
from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Iterator


class Model(http.server.ThreadingHTTPServer):
    """Hangs up on its first callers, then says that it loads its models, then answers."""

    num_hung_up = 2
    num_loading = 2
    answered: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.num_hung_up > 0:
            self.server.num_hung_up -= 1
            return
        is_loading = self.server.num_loading > 0
        self.server.num_loading -= is_loading
        if not is_loading:
            self.server.answered.append(body["id"])
        text = json.dumps({"error": "loading"} if is_loading else {"model_version": "1"}).encode()
        self.send_response(503 if is_loading else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def model() -> Iterator[Model]:
    server = Model(("127.0.0.1", 0), Handler)
    server.answered = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def traffic(model: Model, **changes: Any) -> Traffic:
    url = f"http://127.0.0.1:{model.server_port}"
    return Traffic(spec=load_spec(MODEL), base_url=url, partition="2013-01", max_flights=40, **changes)


def test_callers_ask_again_with_the_same_request_id_until_they_are_answered(model: Model) -> None:
    callers = traffic(model, outage_s=20, requests_per_s=1000)
    callers.start()
    callers.wait()
    assert sorted(model.answered) == [f"2013-01-{number:05d}" for number in range(5)]
    assert callers.num_answers == {"1": 5}
    assert callers.num_repeats == 4


def test_callers_without_patience_fail(model: Model) -> None:
    callers = traffic(model, requests_per_s=1000)
    callers.start()
    with pytest.raises(ServiceError, match="traffic of 2013-01 must be answered"):
        callers.wait()
