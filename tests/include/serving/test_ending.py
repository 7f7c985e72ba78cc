"""SIGTERM: what was accepted is answered, what is idle holds nothing up, and what hangs is left behind."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from aiohttp import web

from include.serving.app import make_app
from include.serving.client import infer_body
from include.serving.ending import DRAIN_S, QUIET_S, InHand, finish_within
from include.serving.limits import Admission
from tests.running import MODEL
from tests.tiny_models import request_columns

if TYPE_CHECKING:
    import pytest

    from include.serving.engine import Engine
    from tests.running import RunningModelServer

BODY = json.dumps(infer_body(columns=request_columns(20))).encode()
HEAD = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


def connect(server: RunningModelServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def answer(connection: socket.socket) -> bytes:
    found = b""
    while b"\r\n\r\n" not in found:
        more = connection.recv(1 << 16)
        assert more, f"the connection was closed after {found!r}"
        found += more
    return found


def refuses(server: RunningModelServer) -> bool:
    try:
        connect(server).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it was closed while it listened to this one
        return True
    return False


def test_a_request_whose_body_is_under_way_is_answered(champion: RunningModelServer) -> None:
    assert champion.process is not None
    with closing(connect(champion)) as upload, closing(connect(champion)) as idle, closing(connect(champion)) as mute:
        idle.sendall(HEAD + BODY)
        assert answer(idle).startswith(b"HTTP/1.1 200")
        upload.sendall(HEAD + BODY[: len(BODY) // 2])
        champion.client.infer(model=MODEL, columns=request_columns(1))  # the server has read the half by then
        started_s = time.monotonic()
        champion.process.send_signal(signal.SIGTERM)
        while not refuses(champion):
            assert time.monotonic() < started_s + DRAIN_S
        upload.sendall(BODY[len(BODY) // 2 :])
        found = answer(upload)
        assert found.startswith(b"HTTP/1.1 200")
        assert b"Connection: close" in found
        assert champion.process.wait(10) == 0
        assert time.monotonic() - started_s < DRAIN_S  # which a connection that holds the end up costs
        assert (idle.recv(1), mute.recv(1)) == (b"", b"")


def test_connections_without_requests_hold_nothing_up(champion: RunningModelServer) -> None:
    with closing(connect(champion)) as idle, closing(connect(champion)):
        idle.sendall(HEAD + BODY)
        assert answer(idle).startswith(b"HTTP/1.1 200")
        started_s = time.monotonic()
        assert champion.stop() == 0
        assert time.monotonic() - started_s < DRAIN_S  # which a connection that holds the end up costs


def drained_after_s(in_hand: InHand, *, timeout_s: float, ends_after_s: float | None = None) -> float:
    """Return how long a drain took; the one inference in hand ends meanwhile, or never."""

    async def drain() -> float:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        if ends_after_s is not None:
            loop.call_later(ends_after_s, lambda: setattr(in_hand, "num_ended", in_hand.num_begun))
        await in_hand.drain(timeout_s=timeout_s)
        return loop.time() - started_s

    return asyncio.run(drain())


def test_a_drain_waits_for_the_last_answer_and_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    in_hand = InHand(num_begun=3, num_ended=2)
    assert 0.3 <= drained_after_s(in_hand, timeout_s=10, ends_after_s=0.3) < 5
    assert (in_hand.num, in_hand.is_ending) == (0, True)
    assert caplog.messages == []


def test_a_drain_says_what_it_leaves_without_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    assert 0.3 <= drained_after_s(InHand(num_begun=3, num_ended=1), timeout_s=0.3) < 5
    assert caplog.messages == ["2 inferences were not done 0.3 s after the signal to end; they get no answer"]


def test_a_drain_with_nothing_in_hand_waits_for_callers_that_send_on() -> None:
    in_hand = InHand(num_begun=5, num_ended=5)

    def come_and_go() -> None:
        in_hand.num_begun += 1
        in_hand.num_ended += 1

    async def drain() -> float:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        loop.call_later(QUIET_S / 2, come_and_go)
        await in_hand.drain()
        return loop.time() - started_s

    assert asyncio.run(drain()) >= 1.5 * QUIET_S


def test_a_worker_that_hangs_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    never = threading.Event()
    finish_within(never.wait, timeout_s=0.05)
    assert caplog.messages == ["what was begun must be done within 0.05 s when the server ends; it is left behind"]
    never.set()


class HungEngine:
    """An engine whose disk does not answer when it ends."""

    def __init__(self) -> None:
        self.log = SimpleNamespace(start=lambda: None)
        self.may_end = threading.Event()

    def start_restoring(self) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        self.may_end.wait(20)


def test_an_application_that_cannot_close_is_left_behind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.serving.app.CLOSE_S", 0.05)
    engine = HungEngine()
    app = make_app(
        engine=cast("Engine", engine), admin_token=None, max_body_bytes=1, admission=Admission(), tracing=None
    )

    async def start_and_end() -> None:
        runner = web.AppRunner(app)
        await runner.setup()
        await runner.cleanup()
        engine.may_end.set()

    asyncio.run(start_and_end())
    assert (
        "workers, log and spans must end within 0.05 s; they did not. The journal holds what is missing" in caplog.text
    )
