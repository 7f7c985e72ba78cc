from __future__ import annotations

import json

import msgspec
import pytest

from include.rollout.latency import NUM_BUCKETS, bucket_of
from include.serving.counters import RouteCounters, WindowCounters
from tests.served_work import work


def test_window_counters_add_up() -> None:
    window = WindowCounters()
    for number in range(1, 101):
        window.add(is_ok=True, latency_ms=float(number), disagreement=None if number > 10 else 0.5)
    window.add(is_ok=False, latency_ms=1e6)
    window.add(is_ok=True, latency_ms=1e6)
    window.add(is_ok=True, latency_ms=None)
    found = window.to_json(version="1", role="champion")
    assert (found["requests"], found["errors"], sum(found["latency_counts"])) == (103, 1, 101)
    assert (found["num_pairs"], found["num_disagreements"]) == (10, 5.0)
    at_most = {bound: sum(found["latency_counts"][: bucket_of(bound) + 1]) for bound in (1.0, 10.0, 100.0)}
    assert at_most == {1.0: 1, 10.0: 10, 100.0: 100}  # bounds are included
    assert found["latency_counts"][-1] == 1
    assert found["latency_sum_ms"] == 5050.0 + 1e6
    json.dumps(found, allow_nan=False)


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
    counters.add(work(version="2", role="canary", predictions=None))
    found = {key: (window.requests, window.errors) for key, window in counters.of("m", revision=1).windows.items()}
    assert found == {("1", "champion"): (1, 0), ("2", "shadow"): (1, 0), ("2", "canary"): (1, 1)}


def test_counters_are_the_same_after_being_written_down() -> None:
    counters = RouteCounters()
    for number in range(3):
        counters.add(work(latency_ms=float(number), role="shadow", disagreement=0.25))
    counters.add(work(model="other", revision=7))
    counters.pause("m", revision=1, seconds=2.5)
    again = RouteCounters.from_bytes(counters.to_bytes())
    assert again == counters


def test_counters_of_another_release_begin_anew() -> None:
    told_quantiles = {"m": (1, 0.0, [("1", "champion", 3, 0, (1.5,), 3, [1.0, 2.0, 3.0])])}
    timed_batches = {"m": (1, 0.0, [("1", "champion", 3, 0, [1] * NUM_BUCKETS, 3.0, 0, 0.0)])}
    for counted_otherwise in (told_quantiles, timed_batches):
        assert RouteCounters.from_bytes(msgspec.msgpack.encode(counted_otherwise)) == RouteCounters()
    with pytest.raises(msgspec.DecodeError):
        RouteCounters.from_bytes(b"\xc1")


@pytest.mark.parametrize(("revision", "away_s"), [(1, 5.0), (2, 2.0), (3, 0.0)])
def test_time_away_counts_for_the_routes_that_it_happened_under(revision: int, away_s: float) -> None:
    counters = RouteCounters()
    counters.pause("m", revision=1, seconds=2.0)
    counters.pause("m", revision=1, seconds=3.0)
    assert counters.of("m", revision=1).away_s == 5.0
    if revision > 1:
        counters.pause("m", revision=2, seconds=2.0)
    assert counters.of("m", revision=revision).away_s == away_s
