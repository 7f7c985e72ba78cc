from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from include.rollout.decision import Counters, Decision, RolloutState, Verdict, decide, decide_stage
from include.rollout.latency import NUM_BUCKETS, bucket_of
from include.spec import RolloutSpec

ROLLOUT = RolloutSpec(
    shadow_requests=20,
    steps_pct=(10.0, 50.0),
    min_requests_per_step=100,
    step_timeout_s=60,
    max_error_frac=0.02,
    max_latency_ratio=2.0,
    latency_floor_ms=1.0,
    max_disagreement_frac=0.25,
)


def latencies(value_ms: float, number: int = 100) -> tuple[int, ...]:
    counts = [0] * NUM_BUCKETS
    counts[bucket_of(value_ms)] = number
    return tuple(counts)


GOOD = Counters(requests=100, errors=0, latency_counts=latencies(4.0), num_pairs=100, num_disagreements=10.0)


def verdict(
    challenger: Counters, champion: Counters = GOOD, *, elapsed_s: float = 1.0, min_requests: int = 100
) -> Decision:
    return decide(
        challenger=challenger, champion=champion, rollout=ROLLOUT, min_requests=min_requests, elapsed_s=elapsed_s
    )


@pytest.mark.parametrize(
    ("changes", "expected", "reason"),
    [
        ({}, "pass", "every measure"),
        ({"requests": 99}, "keep_waiting", "challenger took 99 of 100 requests"),
        ({"errors": 2}, "pass", ""),
        ({"errors": 3}, "fail", r"error_frac 0.03 > 0.02 \(3 of 100 requests\)"),
        ({"requests": 5, "errors": 3}, "fail", "3 of 100"),  # more can no longer help
        ({"requests": 5, "errors": 2}, "keep_waiting", "took 5 of 100"),
        ({"requests": 200, "errors": 4}, "pass", ""),
        ({"requests": 200, "errors": 5}, "fail", "5 of 200"),
        ({"latency_counts": latencies(8.0)}, "pass", ""),
        ({"latency_counts": latencies(8.01)}, "fail", r"latency p95 10 ms > 8 ms \(champion 4 ms\)"),
        ({"num_disagreements": 25.0}, "pass", ""),
        ({"num_disagreements": 25.1}, "fail", "disagreement_frac 0.251 > 0.25"),
        ({"latency_counts": ()}, "keep_waiting", "challenger has no prediction"),
    ],
)
def test_truth_table_of_the_challenger(changes: dict[str, Any], expected: str, reason: str) -> None:
    decision = verdict(replace(GOOD, **changes))
    assert decision.verdict == expected
    assert re.search(reason, "; ".join(decision.reasons))


@pytest.mark.parametrize(
    ("champion", "expected"),
    [
        (replace(GOOD, requests=100), "pass"),
        (replace(GOOD, requests=99), "keep_waiting"),
        (Counters(), "keep_waiting"),
        (replace(GOOD, latency_counts=()), "keep_waiting"),
    ],
)
def test_a_champion_without_evidence_is_no_yardstick(champion: Counters, expected: str) -> None:
    assert verdict(GOOD, champion).verdict == expected


@pytest.mark.parametrize(("elapsed_s", "expected"), [(59.9, "keep_waiting"), (60.0, "inconclusive")])
def test_the_timeout_ends_the_wait_without_a_pass(elapsed_s: float, expected: str) -> None:
    assert verdict(replace(GOOD, requests=99), elapsed_s=elapsed_s).verdict == expected
    assert verdict(Counters(), Counters(), elapsed_s=elapsed_s).verdict == expected


def test_a_spec_that_says_hold_waits_for_evidence() -> None:
    hold = ROLLOUT.model_copy(update={"on_inconclusive": "hold"})
    decision = decide(challenger=Counters(), champion=GOOD, rollout=hold, min_requests=100, elapsed_s=1e6)
    assert decision.verdict is Verdict.KEEP_WAITING


def test_evidence_that_is_there_counts_after_the_timeout_too() -> None:
    assert verdict(GOOD, elapsed_s=1e6).verdict is Verdict.PASS
    assert verdict(replace(GOOD, errors=100), elapsed_s=1e6).verdict is Verdict.FAIL


def test_no_evidence_is_never_a_pass_even_if_none_is_asked_for() -> None:
    assert verdict(Counters(), Counters(), min_requests=0).verdict is Verdict.KEEP_WAITING


@pytest.mark.parametrize(("latency_ms", "expected"), [(1.0, "pass"), (1.01, "fail")])
def test_latencies_up_to_the_floor_are_never_too_slow(latency_ms: float, expected: str) -> None:
    fast = replace(GOOD, latency_counts=latencies(0.01))
    assert verdict(replace(GOOD, latency_counts=latencies(latency_ms)), fast).verdict == expected


def test_all_failures_are_named() -> None:
    decision = verdict(replace(GOOD, latency_counts=latencies(99.0), num_disagreements=100.0))
    assert len(decision.reasons) == 2


CANARY = RolloutState(
    champion="1", canary="2", canary_share_pct=10, counters={("1", "champion"): GOOD, ("2", "canary"): GOOD}
)


def stage_verdict(state: RolloutState, *, stage: Any = "canary", share_pct: float = 10) -> Decision:
    return decide_stage(state, version="2", stage=stage, share_pct=share_pct, rollout=ROLLOUT)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "pass"),
        ({"canary_share_pct": 9.9}, "fail"),
        ({"canary_share_pct": 50.0}, "pass"),  # a cleared earlier step of a rollout that is further on
        ({"canary": "3"}, "fail"),
        ({"canary": None}, "fail"),
        ({"champion": "2", "canary": None, "counters": {}}, "pass"),
        ({"counters": {}}, "keep_waiting"),
        ({"counters": {}, "age_s": 60.0}, "inconclusive"),
    ],
)
def test_truth_table_of_the_routes(changes: dict[str, Any], expected: str) -> None:
    assert stage_verdict(replace(CANARY, **changes)).verdict == expected


def test_a_shadow_needs_its_own_number_of_requests() -> None:
    counters = {("1", "champion"): replace(GOOD, requests=20), ("2", "shadow"): replace(GOOD, requests=20)}
    state = RolloutState(champion="1", shadow="2", counters=counters)
    assert stage_verdict(state, stage="shadow").verdict is Verdict.PASS
    fewer = {**counters, ("2", "shadow"): replace(GOOD, requests=19)}
    assert stage_verdict(replace(state, counters=fewer), stage="shadow").verdict is Verdict.KEEP_WAITING
    assert stage_verdict(replace(state, shadow=None), stage="shadow").verdict is Verdict.FAIL
    assert "must be the shadow; got" in stage_verdict(CANARY, stage="shadow").reasons[0]
