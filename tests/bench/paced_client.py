"""Sends requests at a constant rate and measures how long each took: `paced_client.py '{"port": ..., ...}'`.

Each request has a moment at which it is due, whatever became of those before it, and its time is counted from that
moment: one that waits because the server is behind has waited. A client that sends the next request when the last is
answered asks least while the server is slowest, and so leaves out what it should measure ("coordinated omission",
G. Tene). It spins instead of sleeping, so that it is late for none by itself; it needs a core of its own. Only the
standard library is needed.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from collections import deque
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
DRAIN_S = 10.0
SPIN_BELOW_S = 0.002
_LENGTH = b"content-length:"


class Connection:
    """One keep-alive connection, with at most one request on its way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((LOOPBACK, port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due_s = 0.0
        self._received = b""

    def send(self, request: bytes, *, due_s: float) -> None:
        """Send a request, which fits into the socket's buffer."""
        self.due_s = due_s
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Take what has come; return the status of a whole answer.

        Raises:
            ConnectionError: The server closed the connection.
        """
        content = self.socket.recv(65536)
        if not content:
            raise ConnectionError("the server closed a connection")
        self._received += content
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return None
        lowered = head.lower()
        at = lowered.index(_LENGTH) + len(_LENGTH)
        if len(body) < int(lowered[at:].split(b"\r\n", 1)[0]):
            return None
        self._received = b""
        return int(head[9:12])


class PacedClient:
    """Several connections that share one schedule.

    Args:
        port: Of a server on loopback.
        path: What is posted to.
        bodies: Requests, in turn.
        num_connections: Requests that may be on their way at once; more of them wait, and that counts.
    """

    def __init__(self, *, port: int, path: str, bodies: list[bytes], num_connections: int) -> None:
        self._requests = cycle([_request(path, body) for body in bodies])
        self._free = deque(Connection(port) for _ in range(num_connections))
        self._by_file = {connection.socket.fileno(): connection for connection in self._free}
        self._poll = select.epoll()
        for file in self._by_file:
            self._poll.register(file, select.EPOLLIN)
        self.latencies_s: list[float] = []
        self.statuses: dict[int, int] = {}

    def run(self, *, rate_per_s: float, seconds: float) -> None:
        """Send for some seconds, then wait for what is on its way."""
        start_s = time.perf_counter()
        schedule = (start_s + number / rate_per_s for number in range(round(rate_per_s * seconds)))
        due_s = next(schedule, None)
        waiting: deque[float] = deque()
        give_up_s = start_s + seconds + DRAIN_S
        while (due_s is not None or waiting or self._num_busy) and (now_s := time.perf_counter()) < give_up_s:
            while due_s is not None and due_s <= now_s:
                waiting.append(due_s)
                due_s = next(schedule, None)
            while waiting and self._free:
                self._free.popleft().send(next(self._requests), due_s=waiting.popleft())
            idle_s = 0.0 if due_s is None or waiting else due_s - now_s
            self._receive(timeout_s=0.0 if idle_s < SPIN_BELOW_S else idle_s - SPIN_BELOW_S)
        if num_lost := len(waiting) + self._num_busy:
            self.statuses[0] = num_lost

    @property
    def _num_busy(self) -> int:
        return len(self._by_file) - len(self._free)

    def _receive(self, *, timeout_s: float) -> None:
        for file, _ in self._poll.poll(timeout_s):
            connection = self._by_file[file]
            status = connection.receive()
            if status is not None:
                self.latencies_s.append(time.perf_counter() - connection.due_s)
                self.statuses[status] = self.statuses.get(status, 0) + 1
                self._free.append(connection)


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def main(options: dict[str, Any]) -> dict[str, Any]:
    """Return the latencies' quantiles in ms, and answers by status; 0 stands for none."""
    bodies = Path(options["bodies"]).read_bytes().splitlines()
    client = PacedClient(
        port=options["port"], path=options["path"], bodies=bodies, num_connections=options["num_connections"]
    )
    gc.disable()
    client.run(rate_per_s=options["rate_per_s"], seconds=options["seconds"])
    ordered_ms = sorted(1e3 * latency_s for latency_s in client.latencies_s)
    return {"statuses": client.statuses, "num_answers": len(ordered_ms)} | dict(_quantiles(ordered_ms))


def _quantiles(ordered_ms: list[float]) -> Iterator[tuple[str, float]]:
    for name, share in {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}.items():
        if ordered_ms:
            yield name, round(ordered_ms[min(len(ordered_ms) - 1, int(share * len(ordered_ms)))], 3)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
