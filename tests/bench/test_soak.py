"""A fixed load for long: memory stays flat. An hour under `make bench-soak`, SOAK_S seconds where that is set."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from include import __version__
from include.serving.client import infer_body
from tests.bench.load import Asked, paced, write_bodies
from tests.bench.serving_bench import machine
from tests.running import MODEL, RunningModelServer
from tests.tiny_models import request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from include.lake.storage import Storage

HOUR_S = 3600.0
SOAK_S = float(os.environ.get("SOAK_S", str(HOUR_S)))
WRITE_TO = os.environ.get("TRADEWIND_BENCH_TO")
SHORT_S = 4.0
RATE_PER_S = 100.0
NUM_BODIES = 200
MAX_GROWTH_MIB = 8.0
"""By the fitted line, over the whole soak: a leak of 24 bytes a request in an hour, and of 21 kB in the short one."""
MIB = float(1 << 20)
NUM_SHOWN = 20
"""Sizes in the report, evenly over the soak, its ends included."""


def growth_mib(seconds_N: Sequence[float], rss_bytes_N: Sequence[float]) -> float:
    """Return by how much a line through the sizes of a process rises from the first to the last, in MiB.

    >>> round(growth_mib([0, 1, 2, 3], [1e9, 1e9 + 2**20, 1e9 + 2**21, 1e9 + 3 * 2**20]), 6)
    3.0
    """
    slope_bytes_per_s = np.polyfit(np.asarray(seconds_N) - seconds_N[0], np.asarray(rss_bytes_N), 1)[0]
    return float(slope_bytes_per_s * (seconds_N[-1] - seconds_N[0]) / MIB)


@pytest.fixture
def server(tmp_path: Path, storage: Storage) -> Iterator[RunningModelServer]:
    """Run a server of its own, whose champion has a canary and a shadow beside it."""
    server = RunningModelServer(folder=tmp_path / "server", storage=storage)
    server.reset()
    package = tiny_package(tmp_path / "package")
    for version in ("1", "2", "3"):
        server.client.load(model=MODEL, version=version, uri=package.uri, digest=package.digest)
    server.client.set_routes(model=MODEL, champion="1", canary="2", canary_share_pct=20.0, shadow="3")
    yield server
    server.stop()


def rss_bytes(pid: int) -> float:
    process = psutil.Process(pid)
    return float(sum(found.memory_info().rss for found in (process, *process.children(recursive=True))))


def soak(server: RunningModelServer, folder: Path, *, seconds: float) -> dict[str, Any]:
    here = machine()
    requests = [infer_body(columns=request_columns(2, first=2 * n), sticky_key=f"k{n}") for n in range(NUM_BODIES)]
    file = write_bodies(folder / "bodies.jsonl", [json.dumps(request).encode() for request in requests])
    asked = Asked(port=server.port, path=f"/v2/models/{MODEL}/infer", bodies=file)
    for _ in range(2):  # whatever is loaded or allocated once
        paced(asked, rate_per_s=RATE_PER_S, seconds=1, core=None)
        server.client.flush()
    assert server.process is not None
    times_s, sizes = [], []
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(paced, asked, rate_per_s=RATE_PER_S, seconds=seconds, core=None)
        while not load.done():
            times_s.append(time.monotonic())
            sizes.append(rss_bytes(server.process.pid))
            time.sleep(min(1.0, seconds / 50))
        statuses = load.result()["statuses"]
    assert statuses == {"200": round(RATE_PER_S * seconds)}
    log = server.client.flush()
    assert (log["dropped_rows"], log["pending_rows"]) == (0, 0)
    shown = np.linspace(0, len(sizes) - 1, NUM_SHOWN).astype(int)
    return {
        "release": __version__,
        "machine": here,
        "seconds": round(seconds),
        "requests_per_s": RATE_PER_S,
        "answered": statuses["200"],
        "rss_mib": [round(sizes[number] / MIB, 1) for number in shown],
        "grown_mib": round(growth_mib(times_s, sizes), 2),
    }


def test_memory_is_flat_for_a_while(server: RunningModelServer, tmp_path: Path) -> None:
    found = soak(server, tmp_path, seconds=SHORT_S)
    assert found["grown_mib"] < MAX_GROWTH_MIB, found


@pytest.mark.chaos
@pytest.mark.timeout(SOAK_S + 600)
def test_memory_is_flat_for_an_hour(server: RunningModelServer, tmp_path: Path) -> None:
    found = soak(server, tmp_path, seconds=SOAK_S)
    if WRITE_TO:
        Path(WRITE_TO).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201 - `make bench-soak` shows it
    assert found["grown_mib"] < MAX_GROWTH_MIB
