"""The queries of the counters, asked of the real Prometheus that scrapes the real model server; by `make chaos`."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from include.errors import ServiceError
from include.rollout.latency import LATENCY_BOUNDS_MS
from include.rollout.prometheus import LATENCIES, REQUESTS, Prometheus
from include.serving.client import infer_body
from tests.kserve.prometheus_api import ScriptedPrometheus
from tests.running import MODEL
from tests.tiny_models import request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.rollout.decision import Counters
    from tests.running import RunningModelServer

LIMIT_S = 60


@pytest.fixture
def prometheus_url(model_server: RunningModelServer, tmp_path: Path, free_port: int) -> Iterator[str]:
    """Run Debian's Prometheus, which scrapes the model server each second."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("needs Debian's package prometheus")
    config = tmp_path / "prometheus.yml"
    address = model_server.url.removeprefix("http://")
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: tw, static_configs: [{{targets: ['{address}'], labels: {{namespace: ml}}}}]}}]\n"
    )
    url = f"http://127.0.0.1:{free_port}"
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        _until(lambda: _answers(f"{url}/-/ready"))
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.chaos
def test_the_real_one_tells_what_the_server_counted_through_a_restart(
    model_server: RunningModelServer, prometheus_url: str, tmp_path: Path
) -> None:
    package = tiny_package(tmp_path / "1")
    client = model_server.client
    client.load(model=MODEL, version="1", uri=package.uri, digest=package.digest)
    client.set_routes(model=MODEL, champion="1")
    prometheus = Prometheus(url=prometheus_url, labels={"namespace": "ml"})
    began_s = time.time()

    def counted(since_s: float = began_s) -> Counters:
        found = prometheus.counters(model=MODEL, versions=["1", "2"], since_s=since_s, now_s=time.time())
        return found["1"]

    _send(model_server, 7)
    body = json.dumps(infer_body(columns=request_columns(1))).encode()
    urlopen(f"{model_server.url}/v2/models/{MODEL}/versions/1/infer", body).close()  # named, so it is not counted
    _until(lambda: time.time() > began_s + 2 and counted().requests == 7)
    assert sum(counted().latency_counts) == 7
    time.sleep(2)  # the scrapes after these seven lie before the next beginning
    later_s = time.time()
    model_server.kill()
    model_server.start()
    _send(model_server, 5)
    _until(lambda: counted().requests == 12 and counted(later_s).requests == 5)
    assert sum(counted(later_s).latency_counts) == 5
    assert counted().errors == 0
    with pytest.raises(ServiceError, match=r"Prometheus at .* must answer a query"):
        Prometheus(url=prometheus_url, labels={"bad": '"'}).counters(
            model=MODEL, versions=["1"], since_s=began_s, now_s=time.time()
        )


def test_a_restart_is_one_of_all_counters_of_the_process_whether_they_fell_or_not() -> None:
    named = {"model": MODEL, "version": "1", "role": "champion"}
    story = {"requests": (0, 5, 7), "at most 2 ms": (0, 4, 3), "in all": (0, 5, 6)}
    with ScriptedPrometheus() as scripted:
        for number, at_s in enumerate((990, 1030, 1060)):
            values = {what: told[number] for what, told in story.items()}
            scripted.add(at_s, values["requests"], __name__=REQUESTS, instance="a", outcome="ok", **named)
            for upper in (*(bound for bound in LATENCY_BOUNDS_MS if bound >= 2), float("inf")):
                value = values["in all" if upper > 2 else "at most 2 ms"]
                scripted.add(at_s, value, __name__=LATENCIES, instance="a", le=_le(upper), **named)
            scripted.add(at_s, 10 * number, __name__=REQUESTS, instance="b", outcome="ok", **named)
        counted = Prometheus(url=scripted.url).counters(model=MODEL, versions=["1"], since_s=1000, now_s=1100)["1"]
    assert (counted.requests, sum(counted.latency_counts)) == (5 + 7 + 20, 5 + 6)
    assert {number: count for number, count in enumerate(counted.latency_counts) if count} == {
        LATENCY_BOUNDS_MS.index(2.0): 4 + 3,
        LATENCY_BOUNDS_MS.index(2.5): 1 + 3,
    }


def test_what_was_counted_before_prometheus_was_out_for_a_while_is_no_evidence() -> None:
    told = {"__name__": REQUESTS, "model": MODEL, "version": "1", "role": "champion", "outcome": "ok"}
    with ScriptedPrometheus() as scripted:
        for at_s, value in ((10_000 - 1800, 1000), (10_030, 1010)):
            scripted.add(at_s, value, instance="a", **told)
        counted = Prometheus(url=scripted.url).counters(model=MODEL, versions=["1"], since_s=10_000, now_s=10_040)
    assert counted["1"].requests == 10


def test_a_prometheus_that_fails_is_said_so() -> None:
    with ScriptedPrometheus(status=503) as scripted, pytest.raises(ServiceError, match=r"got 503(.|\n)*asked again"):
        Prometheus(url=scripted.url).counters(model=MODEL, versions=["1"], since_s=0, now_s=60)
    for status in (200, 503):  # a proxy's connection that breaks off in the midst of an answer
        cut_off = ScriptedPrometheus(status=status, is_cut_off=True)
        with cut_off as scripted, pytest.raises(ServiceError, match=r"must answer a query(.|\n)*asked again"):
            Prometheus(url=scripted.url).counters(model=MODEL, versions=["1"], since_s=0, now_s=60)
    with pytest.raises(ServiceError, match="nothing is decided without evidence"):
        Prometheus(url=scripted.url).counters(model=MODEL, versions=["1"], since_s=0, now_s=60)


def _le(upper_ms: float) -> str:
    return "+Inf" if upper_ms == float("inf") else str(upper_ms / 1e3)


def _send(server: RunningModelServer, num_requests: int) -> None:
    for number in range(num_requests):
        server.client.infer(model=MODEL, columns=request_columns(1, first=number))


def _answers(url: str) -> bool:
    try:
        with urlopen(url) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
