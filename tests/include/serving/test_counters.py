from __future__ import annotations

import json

import pytest

from include.serving.counters import LATENCY_SAMPLES, RouteCounters, WindowCounters
from tests.served_work import work


def test_window_counters_add_up() -> None:
    window = WindowCounters()
    for number in range(1, 101):
        window.add([0.75], num_rows=2, latency_ms=float(number))
    window.add([], num_rows=0, latency_ms=1e6)
    found = window.to_json(version="1", role="champion")
    assert (found["requests"], found["errors"]) == (101, 1)
    assert (found["prediction_sums"], found["num_predictions"]) == ([75.0], 200)
    assert found["latency_ms"] == {"samples": 100, "p50": 51.0, "p95": 96.0, "p99": 100.0}
    json.dumps(found, allow_nan=False)


def test_each_class_adds_up_by_itself() -> None:
    window = WindowCounters()
    for _ in range(2):
        window.add([0.5, 1.25, 0.25], num_rows=2, latency_ms=1.0)
    found = window.to_json(version="1", role="champion")
    assert (found["prediction_sums"], found["num_predictions"]) == ([1.0, 2.5, 0.5], 4)


def test_latencies_are_of_the_newest_requests() -> None:
    window = WindowCounters()
    assert window.to_json(version="1", role="champion")["latency_ms"]["p95"] is None
    for number in range(LATENCY_SAMPLES + 10):
        window.add([0.5], num_rows=1, latency_ms=100.0 if number < 10 else 1.0)
    assert window.to_json(version="1", role="champion")["latency_ms"]["p99"] == 1.0


def test_only_a_change_of_routes_counts_anew() -> None:
    counters = RouteCounters()
    for revision in (1, 2, 2, 1):  # the last one began under routes that are gone
        counters.add(work(revision=revision))
    assert counters.of("m", revision=1).windows == {}
    assert counters.of("m", revision=2).windows[("1", "champion")].requests == 2
    assert counters.of("m", revision=3).windows == {}
    assert counters.of("other", revision=2).windows == {}


def test_each_version_is_counted_by_its_role() -> None:
    counters = RouteCounters()
    counters.add(work())
    counters.add(work(version="2", role="shadow"))
    counters.add(work(version="2", role="canary", predictions=None, sums=()))
    found = {key: (window.requests, window.errors) for key, window in counters.of("m", revision=1).windows.items()}
    assert found == {("1", "champion"): (1, 0), ("2", "shadow"): (1, 0), ("2", "canary"): (1, 1)}


def test_counters_are_the_same_after_being_written_down() -> None:
    counters = RouteCounters()
    for number in range(3):
        counters.add(work(latency_ms=float(number)))
    counters.add(work(model="other", revision=7))
    counters.pause("m", revision=1, seconds=2.5)
    again = RouteCounters.from_bytes(counters.to_bytes())
    assert again == counters
    for _ in range(LATENCY_SAMPLES):
        again.add(work())
    assert len(again.of("m", revision=1).windows[("1", "champion")].latencies_ms) == LATENCY_SAMPLES


@pytest.mark.parametrize(("revision", "away_s"), [(1, 5.0), (2, 2.0), (3, 0.0)])
def test_time_away_counts_for_the_routes_that_it_happened_under(revision: int, away_s: float) -> None:
    counters = RouteCounters()
    counters.pause("m", revision=1, seconds=2.0)
    counters.pause("m", revision=1, seconds=3.0)
    assert counters.of("m", revision=1).away_s == 5.0
    if revision > 1:
        counters.pause("m", revision=2, seconds=2.0)
    assert counters.of("m", revision=revision).away_s == away_s
