"""How fast the model server is beside others, in one run on the same graph: `make bench-serving` writes the figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.bench.load import require_load_tools
from tests.bench.serving_bench import (
    NUM_CONNECTIONS,
    OURS,
    ROUNDS,
    SECONDS,
    Bench,
    latency,
    machine,
    routing_cost,
    side_by_side,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WRITE_TO = os.environ.get("TRADEWIND_BENCH_TO")
MIN_TIMES = {"mlflow": 5.0, "litserve": 1.5, "bentoml": 1.5}
"""As many requests a second as another server, with one row and with eight."""
MAX_P99_MS = 10.0
"""At half of the most requests a second."""
MAX_ROUTING_COST_PCT = 10.0
MIN_SHADOWED_PER_S = 100.0
"""Copies that the shadow scores while callers wait: evidence needs hundreds, within minutes."""


def goals(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what the server should do, what it does, and whether that is enough."""
    for rows, by_name in found["requests_per_s"].items():
        for name, limit in MIN_TIMES.items():
            if name in by_name:
                times = by_name[OURS]["median"] / by_name[name]["median"]
                yield {
                    "goal": f"{rows}: times {name}",
                    "at_least": limit,
                    "got": round(times, 2),
                    "met": times >= limit,
                }
    p99_ms = found["latency_at_half_peak"]["plain"]["p99_ms"]["median"]
    yield {"goal": "p99 ms at half peak", "below": MAX_P99_MS, "got": p99_ms, "met": p99_ms < MAX_P99_MS}
    cost_pct = found["routing"]["cost_pct"]["median"]
    yield {
        "goal": "cost of canary, sticky keys and shadow, per cent of requests/s",
        "below": MAX_ROUTING_COST_PCT,
        "got": cost_pct,
        "met": cost_pct < MAX_ROUTING_COST_PCT,
    }
    copies_per_s = found["routing"]["shadow"]["scored_per_s"]["min"]
    yield {
        "goal": "copies/s that the shadow scores meanwhile",
        "at_least": MIN_SHADOWED_PER_S,
        "got": copies_per_s,
        "met": copies_per_s >= MIN_SHADOWED_PER_S,
    }


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_the_server_beside_others(tmp_path: Path, free_port: int) -> None:
    found: dict[str, Any] = {"machine": machine(), "load_tools": require_load_tools()}
    bench = Bench(tmp_path, free_port)
    found |= bench.described()
    found["setup"] = {"rounds": ROUNDS, "seconds": SECONDS, "connections": NUM_CONNECTIONS, "server_cores": 1}
    found["requests_per_s"] = side_by_side(bench, [OURS, *bench.peers])
    peak = found["requests_per_s"]["rows_1"][OURS]["median"]
    found["latency_at_half_peak"] = latency(bench, rate_per_s=peak / 2)
    found["routing"] = routing_cost(bench)
    found["goals"] = list(goals(found))
    if WRITE_TO:
        Path(WRITE_TO).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201 - `make bench-serving` shows it
    assert [goal for goal in found["goals"] if not goal["met"]] == []
