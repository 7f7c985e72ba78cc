"""Measures the model server and others on the same graph.

The servers are pinned to one core and the client to another. Each round starts each server anew, one at a time. Our
server reads named columns and encodes them, and logs every prediction; the others get rows that are encoded already,
and log none.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import onnxruntime
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.load import LOOPBACK, Asked, most_requests_per_s, paced, write_bodies
from tests.bench.our_server import PATH, our_server
from tests.bench.peers import PEERS, post, prepare_peer, running_peer
from tests.bench.served_graph import MODEL, make_graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from include.registry.package import Package
    from tests.bench.served_graph import ServedGraph

ROUNDS = int(os.environ.get("TRADEWIND_BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("TRADEWIND_BENCH_SECONDS", "5"))
"""Of one measurement."""
PEER_NAMES = os.environ.get("TRADEWIND_BENCH_PEERS", ",".join(peer.name for peer in PEERS)).split(",")
"""Fewer of them, or none, for a quick look."""

OURS = "tradewind"
ROW_COUNTS = (1, 8)
NUM_BODIES = 64
NUM_CONNECTIONS = 32
WARM_S = 2.0
ROUTED_S = 3.0


class Bench:
    """Everything that is asked, prepared once.

    Args:
        folder: Of the run.
        port: Free on loopback.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.graph: ServedGraph = make_graph()
        self.package: Package = self.graph.package(folder / "package")
        self.graph_file = folder / "graph.onnx"
        self.graph_file.write_bytes(self.graph.graph)
        self.peers = {peer.name: peer for peer in PEERS if peer.name in PEER_NAMES}
        self.versions = {name: peer.install() for name, peer in self.peers.items()}
        for peer in self.peers.values():
            prepare_peer(peer, graph=self.graph_file)
        self.onnxruntime = onnxruntime.__version__
        self._num_starts = 0

    def described(self) -> dict[str, Any]:
        """Return what is served by what."""
        peers = {name: {"versions": self.versions[name], "how": peer.how} for name, peer in self.peers.items()}
        inputs = len(self.graph.columns)
        ours = {"versions": {"onnxruntime": self.onnxruntime}, "how": "default settings, every prediction logged"}
        return {
            "graph": {"model": MODEL, "inputs": inputs, "onnx_bytes": len(self.graph.graph)},
            "servers": {OURS: ours, **peers},
        }

    def asked(self, name: str, num_rows: int, *, is_sticky: bool = False) -> Asked:
        """Return the requests of so many rows to a server."""
        firsts = range(0, NUM_BODIES * num_rows, num_rows)
        file = self.folder / f"{name}-{num_rows}-{is_sticky}.jsonl"
        if name == OURS:
            keys = [f"caller-{first}" if is_sticky else None for first in firsts]
            bodies = [
                self.graph.as_columns(first, num_rows, sticky_key=key) for first, key in zip(firsts, keys, strict=True)
            ]
            return Asked(port=self.port, path=PATH, bodies=write_bodies(file, bodies))
        peer = self.peers[name]
        bodies = [peer.asked(self.graph.as_tensors(first, num_rows)) for first in firsts]
        return Asked(port=self.port, path=peer.path, bodies=write_bodies(file, bodies))

    @contextmanager
    def running(self, name: str) -> Iterator[Any]:
        """Run one server, which answers what the graph does."""
        self._num_starts += 1
        if name == OURS:
            with our_server(self.folder / f"ours-{self._num_starts}", package=self.package, port=self.port) as server:
                self._require_right(name, f"http://{LOOPBACK}:{self.port}{PATH}")
                yield server
            return
        peer = self.peers[name]
        probe = peer.asked(self.graph.as_tensors(0, 1))
        log = self.folder / f"{name}.log"
        with running_peer(peer, graph=self.graph_file, port=self.port, probe=probe, log=log):
            self._require_right(name, f"http://{LOOPBACK}:{self.port}{peer.path}")
            yield None

    def _require_right(self, name: str, url: str) -> None:
        asked = self.asked(name, 8).bodies.read_bytes().splitlines()[0]
        answer = json.loads(post(url, asked))
        found = _numbers(answer["outputs"][0]["data"] if name == OURS else answer)
        assert found == pytest.approx(self.graph.scores(self.graph.rows(0, 8)), rel=1e-3, abs=1e-3), name


def _numbers(answer: Any) -> list[float]:
    """Return the numbers of an answer, whatever it is wrapped in."""
    if isinstance(answer, dict):
        return [number for value in answer.values() for number in _numbers(value)]
    return [number for value in answer for number in _numbers(value)] if isinstance(answer, list) else [float(answer)]


def spread(values: Sequence[float], *, digits: int = 0) -> dict[str, Any]:
    """Return a median and what it is the median of."""
    rounded = [round(value, digits) for value in values]
    return {"median": round(statistics.median(values), digits), "min": min(rounded), "max": max(rounded)}


def side_by_side(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    """Return requests/s of each server by rows of a request."""
    found: dict[int, dict[str, list[float]]] = {rows: {name: [] for name in names} for rows in ROW_COUNTS}
    for number in range(ROUNDS):
        for name in (*names[number % len(names) :], *names[: number % len(names)]):
            with bench.running(name):
                for rows in ROW_COUNTS:
                    asked = bench.asked(name, rows)
                    most_requests_per_s(asked, num_connections=NUM_CONNECTIONS, seconds=WARM_S)
                    measured = most_requests_per_s(asked, num_connections=NUM_CONNECTIONS, seconds=SECONDS)
                    found[rows][name].append(measured)
                    print(f"round {number} {name} {rows} rows: {measured:.0f}/s", flush=True)  # noqa: T201
    return {f"rows_{rows}": {name: spread(values) for name, values in of.items()} for rows, of in found.items()}


def routing_cost(bench: Bench) -> dict[str, Any]:
    """Return what a canary with sticky keys and a shadow cost, from runs that take turns on one server."""
    plain, routed = bench.asked(OURS, 1), bench.asked(OURS, 1, is_sticky=True)
    found: dict[bool, list[float]] = {True: [], False: []}
    shadowed: list[_Copies] = []
    with bench.running(OURS) as server:
        for number in range(2 * ROUNDS):
            for is_plain in (True, False) if number % 2 else (False, True):
                server.route(is_plain=is_plain)
                asked = plain if is_plain else routed
                most_requests_per_s(asked, num_connections=NUM_CONNECTIONS, seconds=1)
                before = _copies(server.port)
                found[is_plain].append(most_requests_per_s(asked, num_connections=NUM_CONNECTIONS, seconds=ROUTED_S))
                if not is_plain:
                    after = _copies(server.port)
                    shadowed.append(
                        _Copies(scored=after.scored - before.scored, dropped=after.dropped - before.dropped)
                    )
    cost_pct = [100 * (1 - by / alone) for alone, by in zip(found[True], found[False], strict=True)]
    return {
        "plain_requests_per_s": spread(found[True]),
        "routed_requests_per_s": spread(found[False]),
        "cost_pct": spread(cost_pct, digits=1),
        "shadow": {
            "scored": sum(copies.scored for copies in shadowed),
            "dropped": sum(copies.dropped for copies in shadowed),
            "scored_per_s": spread([copies.scored / ROUTED_S for copies in shadowed]),
        },
    }


class _Copies(NamedTuple):
    """Copies that the shadow scored, and those that were dropped since it was too slow."""

    scored: int
    dropped: int


def _copies(port: int) -> _Copies:
    """Return what became of the copies so far."""
    with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=10) as answer:
        found = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in found for sample in family.samples]
    scored = sum(s.value for s in samples if s.name.endswith("scored_requests_total") and s.labels["role"] == "shadow")
    dropped = sum(s.value for s in samples if s.name.endswith("shadow_dropped_requests_total"))
    return _Copies(scored=int(scored), dropped=int(dropped))


def latency(bench: Bench, *, rate_per_s: float) -> dict[str, Any]:
    """Return latencies at a rate, with plain routes and with all of them."""
    found: dict[str, list[dict[str, Any]]] = {"plain": [], "routed": []}
    with bench.running(OURS) as server:
        for _ in range(ROUNDS):
            for how, rounds in found.items():
                server.route(is_plain=how == "plain")
                asked = bench.asked(OURS, 1, is_sticky=how == "routed")
                paced(asked, rate_per_s=rate_per_s, seconds=WARM_S)
                rounds.append(paced(asked, rate_per_s=rate_per_s, seconds=2 * SECONDS))
                assert set(rounds[-1]["statuses"]) == {"200"}, rounds
    quantiles = ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")
    return {"rate_per_s": round(rate_per_s)} | {
        how: {name: spread([of[name] for of in rounds], digits=2) for name in quantiles}
        for how, rounds in found.items()
    }


def machine() -> dict[str, Any]:
    """Return what a reader needs to know of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "cpu": next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }
