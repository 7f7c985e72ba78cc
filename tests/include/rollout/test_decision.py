"""Every verdict of `decide` and `decide_stage`; that the promises hold is tested by simulation in test_promises.py."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from include.rollout.contradictions import runs_backwards
from include.rollout.decision import (
    Counters,
    Decision,
    LabelEvidence,
    RolloutState,
    Verdict,
    decide,
    decide_stage,
    thresholds,
)
from include.rollout.latency import NUM_BUCKETS, bucket_of
from include.spec import RolloutSpec

ROLLOUT = RolloutSpec(
    steps_pct=(10.0, 50.0),
    step_timeout_s=60,
    max_error_increase_frac=0.02,
    max_error_frac=0.1,
    latency_quantile=0.95,
    max_latency_ratio=2.0,
    latency_floor_ms=5.0,
    max_disagreement_frac=0.2,
    disagreement_margin_frac=0.1,
    max_loss_increase=0.01,
)


def counted(
    requests: int,
    *,
    errors: int = 0,
    latency_ms: float = 4.0,
    slow: int = 0,
    slow_ms: float = 99.0,
    differing: float = 0.1,
) -> Counters:
    """Return counters of a version whose latencies are all alike but for the slow ones."""
    counts = [0] * NUM_BUCKETS
    counts[bucket_of(latency_ms)] += requests - errors - slow
    counts[bucket_of(slow_ms)] += slow
    pairs = requests - errors
    return Counters(
        requests=requests,
        errors=errors,
        latency_counts=tuple(counts),
        num_pairs=pairs,
        num_disagreements=pairs * differing,
    )


def verdict(
    challenger: Counters,
    champion: Counters | None = None,
    *,
    stage: Any = "canary",
    elapsed_s: float = 1.0,
    rollout: RolloutSpec = ROLLOUT,
    labels: LabelEvidence | None = None,
) -> Decision:
    return decide(
        challenger=challenger,
        champion=counted(4500) if champion is None else champion,
        rollout=rollout,
        stage=stage,
        elapsed_s=elapsed_s,
        labels=labels,
    )


@pytest.mark.parametrize(
    ("challenger", "champion", "expected", "reason"),
    [
        # errors: no difference, and differences about the margin of 0.02
        (counted(500), counted(4500), "pass", "every measure is within its margin"),
        (counted(200), counted(1800), "keep_waiting", "errors: 0 of 200 requests failed .*% of the evidence"),
        (counted(500, errors=3), counted(4500), "keep_waiting", "errors: 3 of 500"),
        (counted(500, errors=30), counted(4500), "fail", r"errors: 30 of 500 .* \(champion 0 of 4500, margin 0.02\)"),
        (counted(500, errors=30), counted(4500, errors=270), "keep_waiting", "errors: 30 of 500"),
        (counted(5000, errors=100), counted(45000, errors=900), "pass", ""),
        (counted(5000, errors=250), counted(45000, errors=900), "fail", "errors: 250 of 5000"),
        # shown to be worse, and shown to be within the margin: it passes
        (counted(20000, errors=100), counted(180000, errors=180), "pass", ""),
        # a version that fails from the start needs no minimum of requests
        (counted(1, errors=1), counted(9), "keep_waiting", ""),
        (counted(4, errors=4), counted(36), "fail", "errors: 4 of 4"),
        # and one that fails as often as a champion that fails too often fails all the same
        (counted(500, errors=150), counted(4500, errors=1350), "fail", "error_limit: 150 of 500 .* 0.1"),
        # latency: the floor is 5 ms, the ratio 2
        (counted(500, latency_ms=5.0), counted(4500, latency_ms=0.1), "pass", ""),
        (counted(500, latency_ms=6.3), counted(4500, latency_ms=0.1), "fail", "latency: p95 of 500 .* 6.3 ms"),
        (counted(500, latency_ms=16.0), counted(4500, latency_ms=10.0), "pass", ""),
        (counted(500, latency_ms=25.0), counted(4500, latency_ms=10.0), "fail", "latency: .* 25 ms .champion 10 ms"),
        (counted(500, slow=5), counted(4500), "pass", ""),  # 1 %, of 5 % that may
        (counted(500, slow=25), counted(4500), "keep_waiting", "latency"),
        (counted(500, slow=70), counted(4500), "fail", "latency"),
        # a champion that was hardly measured is no yardstick beyond the floor, and none is needed below
        (counted(500, latency_ms=25.0), counted(3, latency_ms=20.0), "keep_waiting", "latency"),
        (counted(500, latency_ms=25.0), Counters(), "keep_waiting", "latency"),
        (counted(500), Counters(), "pass", ""),
        # no traffic
        (Counters(), Counters(), "keep_waiting", "latency: p95 of 0 latencies unknown"),
        (Counters(), counted(4500), "keep_waiting", ""),
    ],
)
def test_truth_table_of_a_canary(challenger: Counters, champion: Counters, expected: str, reason: str) -> None:
    decision = verdict(challenger, champion)
    assert decision.verdict == expected, decision.reasons
    assert re.search(reason, "; ".join(decision.reasons))
    assert json.loads(json.dumps(decision.to_json(), allow_nan=False))["verdict"] == expected


@pytest.mark.parametrize(
    ("differing", "requests", "expected"),
    [
        (0.0, 400, "pass"),
        (0.2, 120, "keep_waiting"),  # the limit itself: more requests are needed
        (0.2, 2000, "pass"),
        (0.3, 400, "fail"),
        (1.0, 10, "fail"),
    ],
)
def test_truth_table_of_a_shadows_agreement(differing: float, requests: int, expected: str) -> None:
    shadow = counted(requests, differing=differing)
    decision = verdict(shadow, counted(requests), stage="shadow")
    assert decision.verdict == expected, decision.reasons
    if expected == "fail":
        assert "disagreement" in decision.reasons[0]
    assert verdict(shadow, counted(requests)).verdict != "fail"  # a canary is asked other things


@pytest.mark.parametrize(
    ("labels", "mean", "num", "expected"),
    [
        ("used", 0.0, 0, "pass"),
        ("used", 0.05, 3000, "fail"),
        ("used", 0.05, 199, "pass"),  # too few to tell
        ("used", -0.05, 2000, "pass"),
        ("required", 0.0, 0, "keep_waiting"),
        ("required", 0.0, 20_000, "pass"),
        ("required", 0.005, 200_000, "pass"),  # worse, and within the margin
        ("required", 0.02, 20_000, "fail"),
        ("required", 0.0, 200, "keep_waiting"),  # rare losses may be missing yet
        ("ignored", 0.05, 3000, "pass"),
    ],
)
def test_truth_table_of_late_labels(labels: Any, mean: float, num: int, expected: str) -> None:
    rollout = ROLLOUT.model_copy(update={"labels": labels})
    late = LabelEvidence(version="2", champion="1", num=num, total=mean * num, total_squares=(mean**2 + 0.2**2) * num)
    decision = verdict(counted(500), rollout=rollout, labels=late if num else None)
    assert decision.verdict == expected, decision.reasons
    if expected == "fail":
        assert re.search(r"loss differs by \+0.0\d+ over \d+ labels", decision.reasons[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"requests": 3}, "100 latencies of 3 scored requests"),
        ({"errors": 101}, "101 of 100 requests failed, which cannot be"),
        ({"errors": -1}, "cannot be"),
        ({"latency_counts": (100,)}, "1 latency buckets instead of"),
        ({"num_pairs": 101}, "of 101 pairs of 100 requests"),
        ({"num_disagreements": 100.5}, "100.5 disagreements"),
        ({"num_disagreements": float("nan")}, "nan disagreements"),
    ],
)
def test_counts_that_contradict_themselves_are_an_error(changes: dict[str, Any], said: str) -> None:
    broken = replace(counted(100), **changes)
    for decision, who in ((verdict(broken), "challenger"), (verdict(counted(500), broken), "champion")):
        assert decision.verdict is Verdict.ERROR
        assert decision.is_final
        assert decision.reasons[0].startswith(f"{who}: ")
        assert said in decision.reasons[0]


def test_latencies_are_evidence_by_their_own_number() -> None:
    few = replace(counted(500), latency_counts=counted(40).latency_counts)
    decision = verdict(few)
    assert decision.verdict is Verdict.KEEP_WAITING
    assert [reason for reason in decision.reasons if "p95 of 40 latencies" in reason], decision.reasons
    assert verdict(replace(few, latency_counts=counted(200).latency_counts)).verdict is Verdict.PASS


def test_counts_that_fall_under_the_same_routes_are_told() -> None:
    before = RolloutState(champion="1", canary="2", revision=3, counters={("2", "canary"): counted(10)})
    fewer = replace(before, counters={("2", "canary"): counted(9)})
    assert runs_backwards(before, before) == []
    assert runs_backwards(before, fewer) == ["version 2 as canary had 10 requests and now 9"]
    assert runs_backwards(before, replace(fewer, revision=4)) == []
    seen = replace(CANARY, counters={**CANARY.counters, ("2", "canary"): counted(501)})
    lost = decide_stage(CANARY, version="2", stage="canary", share_pct=10, rollout=ROLLOUT, before=seen)
    assert (lost.verdict, lost.reasons) == ("error", ("version 2 as canary had 501 requests and now 500",))


@pytest.mark.parametrize(("elapsed_s", "expected"), [(59.9, "keep_waiting"), (60.0, "inconclusive")])
def test_the_timeout_ends_the_wait_without_a_pass(elapsed_s: float, expected: str) -> None:
    assert verdict(counted(99), elapsed_s=elapsed_s).verdict == expected
    assert verdict(Counters(), Counters(), elapsed_s=elapsed_s).verdict == expected


def test_a_spec_that_says_hold_waits_for_evidence() -> None:
    hold = ROLLOUT.model_copy(update={"on_inconclusive": "hold"})
    assert verdict(Counters(), rollout=hold, elapsed_s=1e6).verdict is Verdict.KEEP_WAITING


def test_evidence_that_is_there_counts_after_the_timeout_too() -> None:
    assert verdict(counted(500), elapsed_s=1e6).verdict is Verdict.PASS
    assert verdict(counted(500, errors=500), elapsed_s=1e6).verdict is Verdict.FAIL


def test_all_failures_are_named() -> None:
    decision = verdict(counted(500, errors=200, latency_ms=99.0, differing=1.0), stage="shadow")
    assert [reason.partition(":")[0] for reason in decision.reasons] == [
        "errors",
        "error_limit",
        "latency",
        "disagreement",
    ]
    assert set(decision.evidence) == {"elapsed_s", "counters", "fail_at", "pass_at", "measures"}


def test_the_probability_of_a_false_rollback_is_shared_out() -> None:
    """Three stages of five measures: exp(fail_at) is 15 / 0.05."""
    fail_at, pass_at = thresholds(ROLLOUT, num_measures=5)
    assert (round(fail_at, 6), round(pass_at, 6)) == (5.703782, 2.995732)
    alone = ROLLOUT.model_copy(update={"strategy": "shadow", "missed_regression_prob": 0.01})
    assert thresholds(alone, num_measures=5)[0] == pytest.approx(4.60517)
    assert thresholds(alone, num_measures=5)[1] == pytest.approx(4.60517)


GOOD = counted(500)
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


def test_a_shadow_is_judged_by_its_own_counts() -> None:
    counters = {("1", "champion"): GOOD, ("2", "shadow"): GOOD}
    state = RolloutState(champion="1", shadow="2", counters=counters)
    assert stage_verdict(state, stage="shadow").verdict is Verdict.PASS
    fewer = {**counters, ("2", "shadow"): counted(50)}
    assert stage_verdict(replace(state, counters=fewer), stage="shadow").verdict is Verdict.KEEP_WAITING
    assert stage_verdict(replace(state, shadow=None), stage="shadow").verdict is Verdict.FAIL
    assert "must be the shadow; got" in stage_verdict(CANARY, stage="shadow").reasons[0]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"version": "2", "champion": "1"}, "fail"),
        ({"version": "3", "champion": "1"}, "pass"),
        ({"version": "2", "champion": "0"}, "pass"),
    ],
)
def test_labels_count_for_the_versions_that_they_are_of(labels: dict[str, str], expected: str) -> None:
    late = LabelEvidence(num=2000, total=200.0, total_squares=40.0, **labels)
    assert stage_verdict(replace(CANARY, labels=late)).verdict == expected
