"""The real server while callers send at once: what changes, restarts and other models do to them."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import ServiceError
from include.serving.client import infer_body
from tests.tiny_models import SPEC, request_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.running import RunningModelServer

MODEL = SPEC.name
NUM_CALLERS = 6
WAIT_S = 30.0


class Callers:
    """Threads that send as fast as they are answered, each on a connection of its own."""

    def __init__(self, server: RunningModelServer) -> None:
        self.server = server
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.refused: list[str] = []
        self.progress = threading.Condition()
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self._call, args=(number,)) for number in range(NUM_CALLERS)]
        for thread in self.threads:
            thread.start()

    def answered(self, num_more: int) -> None:
        with self.progress:
            wanted = len(self.answers) + num_more
            assert self.progress.wait_for(lambda: len(self.answers) >= wanted, WAIT_S)

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def _call(self, caller: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=WAIT_S)) as connection:
            self._call_by(connection, caller)

    def _call_by(self, connection: http.client.HTTPConnection, caller: int) -> None:
        number = 0
        while not self.stopped.is_set():
            request_id = f"c{caller}-{number}"
            sent = json.dumps(infer_body(columns=request_columns(1, first=number), request_id=request_id)).encode()
            try:
                connection.request("POST", f"/v2/models/{MODEL}/infer", sent)
                response = connection.getresponse()
                found = response.status, json.loads(response.read())
            except (OSError, http.client.HTTPException) as error:
                self.refused.append(repr(error))
                return
            assert found[1].get("id") in (request_id, None)
            number += 1
            with self.progress:
                self.answers.append(found)
                self.progress.notify_all()


@pytest.fixture
def champion(model_server: RunningModelServer, load: Callable[..., str]) -> RunningModelServer:
    model_server.client.set_routes(model=MODEL, champion=load("1"))
    return model_server


@pytest.fixture
def callers(champion: RunningModelServer) -> Iterator[Callers]:
    found = Callers(champion)
    yield found
    found.stop()


def test_changes_of_the_routes_drop_no_request(
    champion: RunningModelServer, load: Callable[..., str], callers: Callers
) -> None:
    client = champion.client
    load("2", bias=0.0)
    load("3")
    for _ in range(3):
        client.set_routes(model=MODEL, champion="1", canary="2", canary_share_pct=50, shadow="3")
        callers.answered(20)
        client.set_routes(model=MODEL, champion="2")
        callers.answered(20)
        client.unload(model=MODEL, version="3")
        load("3")
    callers.stop()
    assert not callers.refused
    assert {status for status, _ in callers.answers} == {200}
    assert {answer["model_version"] for _, answer in callers.answers} == {"1", "2"}
    client.flush()


def test_what_was_accepted_is_answered_when_the_server_ends_and_the_rest_is_refused(
    champion: RunningModelServer, callers: Callers
) -> None:
    said_before = len(champion.log)
    callers.answered(50)
    assert champion.process is not None
    champion.process.send_signal(signal.SIGTERM)
    assert champion.process.wait(timeout=WAIT_S) == 0
    callers.stop()
    assert {status for status, _ in callers.answers} <= {200, 503}
    assert len(callers.refused) <= NUM_CALLERS  # each only once: its connection is closed, and no other can be opened
    with pytest.raises(ServiceError):
        champion.client.infer(model=MODEL, columns=request_columns(1))
    champion.start()
    state = champion.client.get_routes(model=MODEL)
    (counted,) = state["counters"]
    num_answers = sum(status == 200 for status, _ in callers.answers)
    assert num_answers <= counted["requests"] <= num_answers + NUM_CALLERS
    assert "Traceback" not in champion.log[said_before:]


def test_an_unknown_model_and_bad_requests_beside_good_ones(champion: RunningModelServer, callers: Callers) -> None:
    statuses = []
    with closing(http.client.HTTPConnection("127.0.0.1", champion.port, timeout=WAIT_S)) as connection:
        for number in range(30):
            path = MODEL if number % 2 else "unknown"
            connection.request("POST", f"/v2/models/{path}/infer", b'{"inputs": 1}')
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
    callers.stop()
    assert set(statuses) == {400, 404}
    assert {status for status, _ in callers.answers} == {200}
