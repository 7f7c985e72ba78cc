"""What is counted as a version's latency: it depends on the version, and on nothing that is scored with a request."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from include.rollout.decision import Counters, Verdict, decide
from include.serving.accounting import works_of
from include.serving.client import infer_body
from include.serving.counters import RouteCounters
from include.serving.features import FeatureLookup
from include.serving.protocol import RequestReader
from include.serving.router import Routes
from include.serving.scoring import Asked, Outcome, Scored, score_requests
from include.serving.served_model import ServedModel
from include.serving.timing import ALONE_FRAC, TIMED_EVERY_S, TurnClock
from include.serving.versions import open_package
from tests.tiny_models import FRAGILE_DISTANCE, SPEC, fill_online_store, request_columns, tiny_package

if TYPE_CHECKING:
    from pathlib import Path

    from include.lake.storage import Storage
    from include.serving.versions import LoadedVersion

ROLLOUT = SPEC.rollout.model_copy(
    update={"strategy": "canary", "steps_pct": (10.0,), "latency_quantile": 0.9, "latency_floor_ms": 1.0}
)


@dataclass(kw_only=True)
class SlowSession:
    """A real session whose runs take so long by a clock that the tests turn."""

    session: Any
    clock: list[float]
    row_ms: float

    def run(self, names: list[str], inputs: dict[str, Any]) -> Any:
        self.clock[0] += (0.2 + self.row_ms * len(inputs["numeric"])) / 1e3
        return self.session.run(names, inputs)


@dataclass(kw_only=True)
class Turns:
    """Has turns scored by champion 1 and canary 2, and counts them as the server does."""

    served: ServedModel
    lookup: FeatureLookup
    counters: RouteCounters

    def score(self, first: int, num_requests: int, **changes: Any) -> list[Scored]:
        asked = [
            Asked(json.dumps(infer_body(columns=request_columns(1) | changes, sticky_key=f"k{first + n}")).encode())
            for n in range(num_requests)
        ]
        found = score_requests(self.served, self.lookup, asked, is_timed=True)
        scored = [one for one in found if isinstance(one, Scored)]
        for one in scored:
            for work in works_of(one, logged_at_us=0):
                self.counters.add(work)
        return scored

    def of(self, version: str, role: str) -> Counters:
        window = self.counters.of(SPEC.name, revision=0).windows[version, role]
        return Counters(requests=window.requests, errors=window.errors, latency_counts=tuple(window.latency_counts))


@pytest.fixture
def turns(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Turns:
    """A row takes the champion 1 ms and the canary, which fails at long distances, 3 ms."""
    fill_online_store(storage, {})
    clock = [0.0]
    monkeypatch.setattr("include.serving.scoring.perf_counter", lambda: clock[0])

    def opened(version: str, *, row_ms: float, is_fragile: bool = False) -> LoadedVersion:
        loaded = open_package(tiny_package(tmp_path / version, is_fragile=is_fragile), SPEC, version)
        return replace(loaded, session=cast("Any", SlowSession(session=loaded.session, clock=clock, row_ms=row_ms)))

    return Turns(
        served=ServedModel(
            spec=SPEC,
            reader=RequestReader.of(SPEC, max_rows=64),
            versions={"1": opened("1", row_ms=1.0), "2": opened("2", row_ms=3.0, is_fragile=True)},
            routes=Routes(champion="1", canary="2", canary_share_pct=10.0),
        ),
        lookup=FeatureLookup(storage=storage),
        counters=RouteCounters(),
    )


@pytest.mark.parametrize("num_requests", [1, 2, 40, 64])
def test_a_canary_three_times_as_slow_fails_whatever_it_is_scored_with(turns: Turns, num_requests: int) -> None:
    num_turns = 150
    for number in range(num_turns):
        turns.score(number * num_requests, num_requests)
    ours, theirs = turns.of("2", "canary"), turns.of("1", "champion")
    assert ours.requests + theirs.requests == num_turns * num_requests
    assert sum(ours.latency_counts) + sum(theirs.latency_counts) == num_turns
    assert sum(ours.latency_counts) < 0.2 * num_turns  # its share, though most turns have a request of it
    found = decide(challenger=ours, champion=theirs, rollout=ROLLOUT, stage="canary", elapsed_s=1.0)
    assert found.verdict is Verdict.FAIL
    said = f"latency: p90 of {sum(ours.latency_counts)} latencies 4 ms (champion 1.25 ms"
    assert any(reason.startswith(said) for reason in found.reasons), found.reasons


def test_the_request_that_is_timed_is_drawn_by_lot(turns: Turns) -> None:
    timed = set()
    for _ in range(100):  # callers whose requests keep their places
        timed |= {place for place, scored in enumerate(turns.score(0, 4)) if scored.outcomes[0].latency_ms is not None}
    assert timed == {0, 1, 2, 3}


def test_a_request_that_fails_has_no_latency_and_whoever_replaces_it_neither(turns: Turns) -> None:
    turns.served = replace(turns.served, routes=Routes(champion="1", canary="2", canary_share_pct=99.9))
    scored = turns.score(0, 3, distance=[FRAGILE_DISTANCE + 1])
    assert [[outcome.role for outcome in one.outcomes] for one in scored] == [["canary", "champion"]] * 3
    assert [one.outcomes[1].latency_ms for one in scored] == [None] * 3
    assert (turns.of("2", "canary").errors, sum(turns.of("2", "canary").latency_counts)) == (3, 0)
    assert set(turns.counters.of(SPEC.name, revision=0).windows) == {("2", "canary")}  # who replaces it is not counted


def turn(*latencies_ms: float | None) -> list[Scored | Exception]:
    """Return what a turn of requests came to, of which some were timed."""
    return [
        Scored(
            served=ServedModel(spec=SPEC, reader=RequestReader.of(SPEC, max_rows=64)),
            request_id="r",
            example_ids=None,
            columns={},
            outcomes=(Outcome(version="1", role="champion", latency_ms=latency_ms, predictions=[0.5]),),
            answer=None,
        )
        for latency_ms in latencies_ms
    ]


def test_turns_are_timed_by_the_clock_and_requests_that_come_alone_always() -> None:
    now = [100.0]
    clock = TurnClock(now_s=lambda: now[0])

    def is_due(after_s: float, *, model: str = "m", num_requests: int = 2) -> bool:
        now[0] += after_s
        return clock.is_due(model, num_requests=num_requests)

    assert is_due(0.0)
    assert not is_due(0.9 * TIMED_EVERY_S)
    assert is_due(0.0, num_requests=1)
    assert is_due(0.0, model="other")
    assert is_due(0.2 * TIMED_EVERY_S)


def test_a_slow_model_is_timed_less_often() -> None:
    now = [100.0]
    clock = TurnClock(now_s=lambda: now[0])
    assert clock.is_due("m", num_requests=2)
    now[0] += 0.1
    clock.timed("m", [*turn(50.0, None), ValueError("bad")])
    rest_s = 0.05 / ALONE_FRAC
    now[0] += 0.99 * rest_s
    assert not clock.is_due("m", num_requests=2)
    now[0] += 0.02 * rest_s
    assert clock.is_due("m", num_requests=2)


@pytest.mark.parametrize("of", [turn(None, None), [ValueError("bad")] * 2, turn(50.0)])
def test_what_cost_nothing_more_lets_no_model_rest(of: list[Scored | Exception]) -> None:
    now = [100.0]
    clock = TurnClock(now_s=lambda: now[0])
    assert clock.is_due("m", num_requests=len(of))
    clock.timed("m", of)
    now[0] += TIMED_EVERY_S
    assert clock.is_due("m", num_requests=2)
