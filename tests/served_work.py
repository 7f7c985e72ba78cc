"""Work of a model server as its journal keeps it."""

from __future__ import annotations

from typing import Any

from include.serving.counters import Work


def work(number: int = 0, *, num_rows: int = 2, **fields: Any) -> Work:
    """Return one version's work on a request of so many rows."""
    values: dict[str, Any] = {
        "model": "m",
        "revision": 1,
        "version": "1",
        "role": "champion",
        "request_id": f"r{number}",
        "example_ids": [f"e{number}-{row}" for row in range(num_rows)],
        "latency_ms": 1.0,
        "output": "probability",
        "num_classes": 0,
        "predictions": [0.5] * num_rows,
        "columns": {"carrier": ["AA"] * num_rows, "temp": [1.5] + [None] * (num_rows - 1)},
        "strings": frozenset({"carrier"}),
        "logged_at_us": 1_000_000,
    }
    return Work(**{**values, **fields})
