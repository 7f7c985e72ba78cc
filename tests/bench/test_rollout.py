"""What the rollout promises, by simulation: `make bench-rollout` runs ten thousand of each, each test run a few.

A promise is broken when a version that is no worse fails more often than `false_rollback_prob`, or one that is worse
by a margin is promoted more often than `missed_regression_prob`.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.rollout.decision import Counters, Verdict, decide, measures_of, thresholds
from include.spec import RolloutSpec
from tests.bench.rollout_traces import (
    FAIL,
    KEEP,
    LATE,
    NUM_MEASURES,
    PASS,
    Counts,
    Truth,
    disagreement_evidence,
    error_evidence,
    latency_evidence,
    simulate,
    simulate_threshold_rule,
    verdicts,
)

WRITE_TO = os.environ.get("TRADEWIND_BENCH_TO")
NUM_ROLLOUTS = int(os.environ.get("TRADEWIND_BENCH_ROLLOUTS", "10000"))
ROLLOUT = RolloutSpec(steps_pct=(10.0, 50.0), max_error_increase_frac=0.05, latency_quantile=0.9)
"""The margins of the shipped model: 5 % of errors, twice the 90th percentile, a tenth of the rows."""
CHAMPION = Truth()
QUANTILE_MS = 8.0 * float(np.exp(0.5 * 1.2815515655))
MOST = 800
"""Requests of the challenger until a stage's deadline."""
TURN = 16
"""Requests that the server scores together, where it does."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A version, and what is promised of it: failed at most so often, or promoted at most so often."""

    challenger: Truth
    promise: str = ""
    champion: Truth = CHAMPION
    look_every: int = 10
    has_storms: bool = False
    most: int = MOST
    rollout: RolloutSpec = ROLLOUT
    share: float = 1.0
    """Of the rollouts that the others get: looking after every request costs ten times as much."""


SCENARIOS = {
    "no_difference": Scenario(challenger=CHAMPION, promise="failed"),
    "no_difference_looked_at_after_every_request": Scenario(
        challenger=CHAMPION, promise="failed", look_every=1, share=0.2
    ),
    "disagreement_at_the_limit": Scenario(challenger=replace(CHAMPION, disagreement_frac=0.2), promise="failed"),
    "errors_worse_by_the_margin": Scenario(challenger=replace(CHAMPION, error_frac=0.06), promise="promoted"),
    "latency_twice": Scenario(challenger=replace(CHAMPION, latency_ms=16.0), promise="promoted"),
    "latency_three_times": Scenario(challenger=replace(CHAMPION, latency_ms=24.0), promise="promoted"),
    "disagreement_worse_by_the_margin": Scenario(
        challenger=replace(CHAMPION, disagreement_frac=0.3), promise="promoted"
    ),
    "every_request_fails": Scenario(challenger=replace(CHAMPION, error_frac=1.0), promise="promoted", look_every=1),
    "no_difference_in_storms_of_errors": Scenario(
        challenger=replace(CHAMPION, error_frac=0.005),
        champion=replace(CHAMPION, error_frac=0.005),
        has_storms=True,
    ),
    "slow_in_a_fifth_of_the_turns_of_16": Scenario(
        challenger=replace(CHAMPION, slow_frac=0.19, turn_requests=TURN),
        champion=replace(CHAMPION, turn_requests=TURN),
        promise="promoted",
        rollout=ROLLOUT.model_copy(update={"strategy": "canary", "steps_pct": (50.0,)}),
        look_every=TURN,
        most=200 * TURN,
    ),
}


def run(name: str, *, num_rollouts: int, seed: int) -> dict[str, Any]:
    scenario = SCENARIOS[name]
    found = simulate(
        np.random.default_rng(seed),
        rollout=scenario.rollout,
        challenger=scenario.challenger,
        champion=scenario.champion,
        num_rollouts=num_rollouts,
        look_every=scenario.look_every,
        most=scenario.most,
        has_storms=scenario.has_storms,
    )
    return {"rollouts": num_rollouts, "looked_at_every": scenario.look_every, **told(found)}


def told(found: Any) -> dict[str, Any]:
    return {
        "promoted": found.frac(PASS),
        "failed": found.frac(FAIL),
        "inconclusive": found.frac(LATE),
        "requests_median": float(np.median(found.requests)),
        "requests_p95": float(np.quantile(found.requests, 0.95)),
    }


TUNED_SUCCESS_FRAC = 1 - CHAMPION.error_frac - ROLLOUT.max_error_increase_frac / 2
"""Halfway into the margin, as if one knew the champion's true error rate."""
THRESHOLD_RULES = {
    "tuned_400_requests_a_check": (TUNED_SUCCESS_FRAC, 400),
    "tuned_100_requests_a_check": (TUNED_SUCCESS_FRAC, 100),
    "success_99_percent_400_requests_a_check": (0.99, 400),
}
"""Least share of successes, and requests to the model in an interval; 99 % is the number of Flagger's documentation."""


def threshold_rule(name: str, *, rule: str, num_rollouts: int) -> dict[str, Any]:
    """Return what a rule of thresholds makes of a scenario; that of the latency lies halfway into its margin."""
    min_success_frac, requests_each = THRESHOLD_RULES[rule]
    found = simulate_threshold_rule(
        np.random.default_rng(99),
        challenger=SCENARIOS[name].challenger,
        min_success_frac=min_success_frac,
        max_latency_ms=QUANTILE_MS * ROLLOUT.max_latency_ratio**0.5,
        quantile=ROLLOUT.latency_quantile,
        num_rollouts=num_rollouts,
        requests_each=requests_each,
    )
    return told(found)


def beside_by_thresholds(*, num_rollouts: int) -> dict[str, Any]:
    """Return what each rule makes of the scenarios that it can see: it knows of no disagreement or turn."""
    unseen = ("disagreement", "every", "storms", "turns")
    names = [name for name in SCENARIOS if not any(word in name for word in unseen)]
    return {
        rule: {name: threshold_rule(name, rule=rule, num_rollouts=num_rollouts) for name in names}
        for rule in THRESHOLD_RULES
    }


def limit_of(name: str) -> float:
    is_failing = SCENARIOS[name].promise == "failed"
    return ROLLOUT.false_rollback_prob if is_failing else ROLLOUT.missed_regression_prob


@pytest.mark.parametrize("name", [name for name, known in SCENARIOS.items() if known.look_every > 1 and known.promise])
def test_the_promises_hold(name: str) -> None:
    """At 1 % of the bench's rollouts: more than `most` of them would happen once in 10,000 times at the limit."""
    num_rollouts, scenario = 60, SCENARIOS[name]
    found = run(name, num_rollouts=num_rollouts, seed=7)
    most = 10  # of Binomial(60, 0.05): P(X > 10) < 1e-4
    if scenario.promise:
        assert found[scenario.promise] * num_rollouts <= most, found
    if scenario.promise == "failed":
        assert found["promoted"] >= 0.8, found


@pytest.mark.parametrize("stage", ["shadow", "canary"])
@pytest.mark.parametrize(
    "name",
    [
        "no_difference",
        "errors_worse_by_the_margin",
        "latency_three_times",
        "slow_in_a_fifth_of_the_turns_of_16",
    ],
)
def test_the_simulation_decides_as_the_product_does(name: str, stage: Any) -> None:
    rng = np.random.default_rng(3)
    scenario, others_each = SCENARIOS[name], 1 if stage == "shadow" else 9
    ours, theirs = Counts.zeros(8), Counts.zeros(8)
    for _ in range(6):
        ours.add(rng, scenario.challenger, num=30, storm_R=None)
        theirs.add(rng, scenario.champion, num=30 * others_each, storm_R=None)
        found = verdicts(ours, theirs, rollout=ROLLOUT, stage=stage)
        evidence = {
            "errors": error_evidence(ours, theirs, margin=ROLLOUT.max_error_increase_frac),
            "latency": latency_evidence(ours, theirs, rollout=ROLLOUT),
            "disagreement": disagreement_evidence(ours, rollout=ROLLOUT),
        }
        for at in range(8):
            both = {"challenger": counters(ours, at), "champion": counters(theirs, at)}
            decided = decide(**both, rollout=ROLLOUT, stage=stage, elapsed_s=0.0)
            same = {PASS: Verdict.PASS, FAIL: Verdict.FAIL, KEEP: Verdict.KEEP_WAITING}[int(found[at])]
            assert decided.verdict is same, decided
            measures = measures_of(**both, rollout=ROLLOUT, stage=stage)
            assert len(measures) == NUM_MEASURES[stage]
            for measure in measures:
                if measure.name in evidence:
                    worse, not_worse = evidence[measure.name]
                    for product, simulated in ((measure.worse, worse[at]), (measure.not_worse, not_worse[at])):
                        assert max(product, 0.0) == pytest.approx(max(simulated, 0.0), abs=1e-6)


def counters(of: Counts, at: int) -> Counters:
    errors = int(of.errors_R[at])
    return Counters(
        requests=of.num,
        errors=errors,
        latency_counts=tuple(int(count) for count in of.latency_RB[at]),
        num_pairs=of.num - errors,
        num_disagreements=float(of.disagreements_R[at]),
    )


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_ten_thousand_rollouts_keep_the_promises() -> None:
    began_s = time.monotonic()
    with ProcessPoolExecutor(2) as pool:
        jobs = {
            name: pool.submit(run, name, num_rollouts=int(NUM_ROLLOUTS * scenario.share), seed=number)
            for number, (name, scenario) in enumerate(SCENARIOS.items())
        }
        found = {name: job.result() for name, job in jobs.items()}
    beside = beside_by_thresholds(num_rollouts=NUM_ROLLOUTS)
    if WRITE_TO:
        fail_at, pass_at = thresholds(ROLLOUT, num_measures=NUM_MEASURES["shadow"])
        report = {
            "rollout": ROLLOUT.model_dump(mode="json"),
            "champion": vars(CHAMPION),
            "most_requests_of_the_challenger_in_a_stage": MOST,
            "evidence_to_fail_a_shadow": float(np.exp(fail_at)),
            "evidence_to_pass": float(np.exp(pass_at)),
            "scenarios": {
                name: {"challenger": vars(SCENARIOS[name].challenger), "promised": SCENARIOS[name].promise, **values}
                for name, values in found.items()
            },
            "threshold_rule": beside,
            "seconds": round(time.monotonic() - began_s, 1),
        }
        Path(WRITE_TO).write_text(json.dumps(report, indent=1) + "\n")
    broken = {
        name: found[name]
        for name, scenario in SCENARIOS.items()
        if scenario.promise and found[name][scenario.promise] > limit_of(name)
    }
    assert not broken
