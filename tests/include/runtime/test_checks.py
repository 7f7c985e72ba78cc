from __future__ import annotations

import http.server
import json
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine

from include.runtime.checks import Answers, Heartbeats
from include.runtime.restarts import Health

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime.now(UTC)
SINCE = NOW - timedelta(minutes=5)


class Airflow(http.server.ThreadingHTTPServer):
    """Answers every path with `document`, or with 503 when there is none."""

    document: dict[str, Any] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def beat(self, age_s: float, *, database: str = "healthy") -> None:
        moment = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
        self.document = {"metadatabase": {"status": database}, "scheduler": {"latest_scheduler_heartbeat": moment}}


class Handler(http.server.BaseHTTPRequestHandler):
    server: Airflow

    def do_GET(self) -> None:
        self.send_response(503 if self.server.document is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(self.server.document).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def airflow() -> Iterator[Airflow]:
    server = Airflow(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("age_s", "health"), [(5, Health.OK), (29, Health.OK), (31, Health.SILENT)])
def test_a_heartbeat_counts_for_half_a_minute(airflow: Airflow, age_s: float, health: Health) -> None:
    with time_machine.travel(NOW, tick=False):
        airflow.beat(age_s)
        assert Heartbeats(url=airflow.url, component="scheduler")(since=SINCE) is health


def test_a_predecessors_heartbeat_is_none(airflow: Airflow) -> None:
    airflow.beat(5)
    assert Heartbeats(url=airflow.url, component="scheduler")(since=datetime.now(UTC)) is Health.SILENT


def test_a_heartbeat_that_nobody_can_read_says_nothing(airflow: Airflow) -> None:
    check = Heartbeats(url=airflow.url, component="scheduler")
    assert check(since=SINCE) is Health.UNKNOWN  # 503
    airflow.beat(500, database="unhealthy")
    assert check(since=SINCE) is Health.UNKNOWN


def test_only_200_is_an_answer(airflow: Airflow) -> None:
    assert Answers(url=airflow.url)(since=SINCE) is Health.SILENT
    airflow.beat(5)
    assert Answers(url=airflow.url)(since=SINCE) is Health.OK


def test_a_closed_port_is_silent(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}/"
    assert Answers(url=url)(since=SINCE) is Health.SILENT
    assert Heartbeats(url=url, component="scheduler")(since=SINCE) is Health.UNKNOWN
