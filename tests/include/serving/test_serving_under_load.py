"""The real server while callers send at once: what changes, restarts and other models do to them."""

from __future__ import annotations

import http.client
import signal
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from include.errors import ServiceError
from tests.include.serving.callers import WAIT_S, Callers
from tests.tiny_models import SPEC, request_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.running import RunningModelServer

MODEL = SPEC.name
NUM_CALLERS = 6


@pytest.fixture
def champion(model_server: RunningModelServer, load: Callable[..., str]) -> RunningModelServer:
    model_server.client.set_routes(model=MODEL, champion=load("1"))
    return model_server


@pytest.fixture
def callers(champion: RunningModelServer) -> Iterator[Callers]:
    found = Callers(champion, num_callers=NUM_CALLERS)
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
    assert callers.refused + callers.dropped == []
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
    callers.join()  # each ends when its connection is closed, and no other can be opened
    assert callers.dropped == []
    assert len(callers.refused) == NUM_CALLERS
    assert {status for status, _ in callers.answers} == {200}
    with pytest.raises(ServiceError):
        champion.client.infer(model=MODEL, columns=request_columns(1))
    champion.start()
    state = champion.client.get_routes(model=MODEL)
    (counted,) = state["counters"]
    assert counted["requests"] == len(callers.answers)
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
