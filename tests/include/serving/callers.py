"""Callers that know the difference between a connection that was closed to them and a request that got no answer."""

from __future__ import annotations

import http.client
import json
import select
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

from include.serving.client import infer_body
from tests.tiny_models import SPEC, request_columns

if TYPE_CHECKING:
    from tests.running import RunningModelServer

WAIT_S = 30.0


class Callers:
    """Threads that send as fast as they are answered, each on a connection of its own, until it is closed to them.

    Each ends with one word: `refused`, when it could not connect or found its connection closed before it sent, or
    what became of a request that it had sent and that got no answer.
    """

    def __init__(self, server: RunningModelServer, *, num_callers: int, num_rows: int = 1) -> None:
        self.server = server
        self.num_rows = num_rows
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.refused: list[str] = []
        self.dropped: list[str] = []
        self.progress = threading.Condition()
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self._call, args=(number,)) for number in range(num_callers)]
        for thread in self.threads:
            thread.start()

    def answered(self, num_more: int) -> None:
        with self.progress:
            wanted = len(self.answers) + num_more
            assert self.progress.wait_for(lambda: len(self.answers) >= wanted, WAIT_S), self.dropped + self.refused

    def stop(self) -> None:
        self.stopped.set()
        self.join()

    def join(self) -> None:
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
            columns = request_columns(self.num_rows, first=number * self.num_rows)
            if reason := _closed(connection):
                self.refused.append(reason)
                return
            try:
                sent = json.dumps(infer_body(columns=columns, request_id=request_id)).encode()
                connection.request("POST", f"/v2/models/{SPEC.name}/infer", sent)
                response = connection.getresponse()
                found = response.status, json.loads(response.read())
            except (OSError, http.client.HTTPException) as error:
                self.dropped.append(f"{request_id}: {error!r}")
                return
            assert found[1].get("id") in (request_id, None)
            number += 1
            with self.progress:
                self.answers.append(found)
                self.progress.notify_all()


def _closed(connection: http.client.HTTPConnection) -> str:
    """Return why nothing can be sent; empty: the connection is open, and was opened if need be."""
    if connection.sock is None:  # the last answer said that it is the last one
        try:
            connection.connect()
        except ConnectionRefusedError as error:
            return repr(error)
    is_ended, _, _ = select.select([connection.sock], [], [], 0)  # nothing is owed, so it can only be the end
    return "closed before a request was sent" if is_ended else ""
