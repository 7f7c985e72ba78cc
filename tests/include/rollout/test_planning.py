from __future__ import annotations

import json

import pytest

from include.rollout.decision import Counters, Verdict, decide
from include.rollout.latency import MAX_TIMED_PER_S, NUM_BUCKETS
from include.rollout.planning import binomial_quantile, plan_rollout
from include.spec import RolloutSpec

ROLLOUT = RolloutSpec(steps_pct=(10.0, 50.0, 80.0), step_timeout_s=100)


def test_a_canary_needs_its_share_of_the_requests() -> None:
    plans = plan_rollout(ROLLOUT, requests_per_s=10.0)
    assert [plan.name for plan in plans] == ["shadow", "10 %", "50 %", "80 %"]
    shadow, tenth, half, most = plans
    assert shadow.num_requests == shadow.num_own
    assert (tenth.num_requests, half.num_requests) == (10 * tenth.num_own, 2 * half.num_own)
    assert most.num_requests < half.num_requests
    assert tenth.seconds == tenth.num_requests / 10
    assert [plan.is_too_slow for plan in plans] == [False, True, False, False]
    json.dumps([plan.to_json() for plan in plans])


@pytest.mark.parametrize("requests_per_s", [6.0, 10.0, 20.0])
def test_the_share_that_is_said_to_settle_in_time_does(requests_per_s: float) -> None:
    rollout = RolloutSpec(steps_pct=(10.0,), step_timeout_s=100)
    late = plan_rollout(rollout, requests_per_s=requests_per_s)[1]
    assert late.is_too_slow
    assert late.least_share_pct is not None

    enough = rollout.model_copy(update={"steps_pct": (late.least_share_pct,)})
    too_little = rollout.model_copy(update={"steps_pct": (late.least_share_pct - 2,)})

    assert not plan_rollout(enough, requests_per_s=requests_per_s)[1].is_too_slow
    assert plan_rollout(too_little, requests_per_s=requests_per_s)[1].is_too_slow


def test_requests_that_come_together_are_planned_by_the_latencies_that_are_measured_of_them() -> None:
    tenth = plan_rollout(ROLLOUT, requests_per_s=4000.0)[1]
    assert tenth.seconds == tenth.num_requests / MAX_TIMED_PER_S


def test_no_share_settles_where_there_is_next_to_no_traffic() -> None:
    shadow, tenth, *_ = plan_rollout(ROLLOUT, requests_per_s=0.1)
    assert shadow.is_too_slow
    assert shadow.least_share_pct is None
    assert tenth.least_share_pct is None
    assert plan_rollout(ROLLOUT, requests_per_s=None)[1].least_share_pct is None


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"strategy": "shadow"}, ["shadow"]),
        ({"strategy": "canary"}, ["10 %", "50 %", "80 %"]),
    ],
)
def test_the_strategy_says_which_stages_there_are(changes: dict[str, object], names: list[str]) -> None:
    rollout = RolloutSpec.model_validate({**ROLLOUT.model_dump(), **changes})
    plans = plan_rollout(rollout, requests_per_s=None)
    assert [plan.name for plan in plans] == names
    assert len(plans) == rollout.num_stages
    assert not any(plan.is_too_slow for plan in plans)  # nobody knows


def test_smaller_margins_and_higher_quantiles_need_more() -> None:
    def needs(**changes: float) -> int:
        return plan_rollout(ROLLOUT.model_copy(update=changes), requests_per_s=None)[0].num_own

    usual = needs(max_error_increase_frac=0.1, latency_quantile=0.9)
    assert usual < needs(max_error_increase_frac=0.01, latency_quantile=0.9) > 300  # at least ln(1 / 0.05) / 0.01
    assert usual < needs(max_error_increase_frac=0.1, latency_quantile=0.99)
    assert usual < needs(max_error_increase_frac=0.1, latency_quantile=0.9, missed_regression_prob=0.001)


def test_as_many_requests_as_planned_are_enough() -> None:
    plan = plan_rollout(ROLLOUT, requests_per_s=None)[1]
    own, others = plan.num_own, plan.num_requests - plan.num_own

    def verdict(num: int) -> Verdict:
        counts = (num, *[0] * (NUM_BUCKETS - 1))
        champion = Counters(requests=others, latency_counts=(others, *[0] * (NUM_BUCKETS - 1)))
        challenger = Counters(requests=num, latency_counts=counts)
        return decide(challenger=challenger, champion=champion, rollout=ROLLOUT, stage="canary", elapsed_s=0).verdict

    assert verdict(own) is Verdict.PASS
    assert verdict(own // 4) is Verdict.KEEP_WAITING


@pytest.mark.parametrize(
    ("num", "frac", "prob", "quantile"),
    [(100, 0.05, 0.95, 9), (1000, 0.1, 0.95, 116), (10, 1.0, 0.95, 10), (5, 0.5, 0.5, 2)],
)
def test_quantiles_of_the_binomial_distribution(num: int, frac: float, prob: float, quantile: int) -> None:
    assert binomial_quantile(num, frac=frac, prob=prob) == quantile


def test_far_quantiles_are_not_below_the_exact_ones() -> None:
    stats = pytest.importorskip("scipy.stats")
    exact = stats.binom.ppf(0.95, 100_000, 0.1)
    assert exact <= binomial_quantile(100_000, frac=0.1, prob=0.95) <= exact + 100
