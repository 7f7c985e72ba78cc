"""The versions whose rollouts are simulated, what is promised of each, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from include.spec import RolloutSpec
from tests.bench.rollout_decided import FAIL, LATE, PASS, Outcome, simulate, simulate_threshold_rule
from tests.bench.rollout_labels import LossTruth, simulate_labels
from tests.bench.rollout_traces import Trace, Truth

if TYPE_CHECKING:
    from collections.abc import Sequence

ROLLOUT = RolloutSpec(steps_pct=(10.0, 50.0), max_error_increase_frac=0.05, latency_quantile=0.9)
"""The margins of the shipped model: 5 % of errors, twice the 90th percentile, a tenth of the rows."""
CANARY_ONLY = ROLLOUT.model_copy(update={"strategy": "canary", "steps_pct": (50.0,)})
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
    has_rules: bool = False
    """Whether the rules of thresholds decide about it too: they know of no disagreement, turn or storm."""


SCENARIOS = {
    "no_difference": Scenario(challenger=CHAMPION, promise="failed", has_rules=True),
    "no_difference_looked_at_after_every_request": Scenario(
        challenger=CHAMPION, promise="failed", look_every=1, share=0.2
    ),
    "disagreement_at_the_limit": Scenario(challenger=replace(CHAMPION, disagreement_frac=0.2), promise="failed"),
    "errors_worse_by_the_margin": Scenario(
        challenger=replace(CHAMPION, error_frac=0.06), promise="promoted", has_rules=True
    ),
    "errors_worse_by_the_margin_beside_requests_bad_for_both": Scenario(
        challenger=replace(CHAMPION, error_frac=0.09, shared_error_frac=0.04),
        champion=replace(CHAMPION, error_frac=0.04, shared_error_frac=0.04),
        promise="promoted",
        rollout=CANARY_ONLY,
        most=3000,
        look_every=20,
    ),
    "latency_twice": Scenario(challenger=replace(CHAMPION, latency_ms=16.0), promise="promoted", has_rules=True),
    "latency_three_times": Scenario(challenger=replace(CHAMPION, latency_ms=24.0), promise="promoted", has_rules=True),
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
        rollout=CANARY_ONLY,
        look_every=TURN,
        most=200 * TURN,
    ),
}


TUNED_SUCCESS_FRAC = 1 - CHAMPION.error_frac - ROLLOUT.max_error_increase_frac / 2
"""Halfway into the margin, as if one knew the champion's true error rate."""
THRESHOLD_RULES = {
    "tuned_400_requests_a_check": (TUNED_SUCCESS_FRAC, 400),
    "tuned_100_requests_a_check": (TUNED_SUCCESS_FRAC, 100),
    "success_99_percent_400_requests_a_check": (0.99, 400),
}
"""Least share of successes, and requests to the model in an interval; 99 % is the number of Flagger's documentation."""
CHUNK = 2500
"""Rollouts whose requests are in memory at a time, looked at after every tenth."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What became of a scenario's version, by the evidence and by each rule of thresholds that decides about it."""

    by_evidence: dict[str, Any]
    by_rule: dict[str, dict[str, Any]]


def run(name: str, *, num_rollouts: int, seed: int) -> Ended:
    """Return what becomes of a scenario's version, by the evidence and by each rule that decides about it."""
    scenario = SCENARIOS[name]
    chunk = CHUNK if scenario.look_every > 1 else CHUNK // 10
    sizes = [min(chunk, num_rollouts - first) for first in range(0, num_rollouts, chunk)]
    parts = [
        run_chunk(scenario, num_rollouts=size, seed=child)
        for size, child in zip(sizes, np.random.SeedSequence(seed).spawn(len(sizes)), strict=True)
    ]
    by_evidence, *by_rules = (told(joined(same)) for same in zip(*parts, strict=True))
    return Ended(
        by_evidence={"rollouts": num_rollouts, "looked_at_every": scenario.look_every, **by_evidence},
        by_rule=dict(zip(THRESHOLD_RULES, by_rules, strict=True)) if by_rules else {},
    )


def run_chunk(scenario: Scenario, *, num_rollouts: int, seed: np.random.SeedSequence) -> list[Outcome]:
    """Return what the evidence, and each rule if they decide about it, makes of the same requests."""
    ours, theirs = (np.random.default_rng(child) for child in seed.spawn(2))
    trace = Trace(
        rng=ours,
        challenger=scenario.challenger,
        num_rollouts=num_rollouts,
        block=scenario.look_every,
        has_storms=scenario.has_storms,
    )
    by_evidence = simulate(trace, rng=theirs, rollout=scenario.rollout, champion=scenario.champion, most=scenario.most)
    rules = THRESHOLD_RULES.values() if scenario.has_rules else ()
    return [by_evidence, *(by_threshold_rule(trace, *rule) for rule in rules)]


def by_threshold_rule(trace: Trace, min_success_frac: float, requests_each: int) -> Outcome:
    """Return what a rule of thresholds makes of a trace; that of the latency lies halfway into its margin."""
    return simulate_threshold_rule(
        trace,
        min_success_frac=min_success_frac,
        max_latency_ms=QUANTILE_MS * ROLLOUT.max_latency_ratio**0.5,
        quantile=ROLLOUT.latency_quantile,
        requests_each=requests_each,
    )


def joined(parts: Sequence[Outcome]) -> Outcome:
    return Outcome(
        verdict=np.concatenate([part.verdict for part in parts]),
        requests=np.concatenate([part.requests for part in parts]),
    )


def told(found: Any) -> dict[str, Any]:
    return {
        "promoted": found.frac(PASS),
        "failed": found.frac(FAIL),
        "inconclusive": found.frac(LATE),
        "requests_median": float(np.median(found.requests)),
        "requests_p95": float(np.quantile(found.requests, 0.95)),
    }


@dataclass(frozen=True, kw_only=True)
class LabelScenario:
    """A version whose late labels decide, and what is promised of it."""

    truth: LossTruth
    promise: str


LABELS_EACH, MOST_LABELS = 500, 30_000
"""Labels of a partition, after each of which it is looked at, and until the deadline: about what a month has."""
LABEL_SCENARIOS = {
    "loss_no_higher": LabelScenario(truth=LossTruth(), promise="failed"),
    "loss_worse_by_the_margin": LabelScenario(truth=LossTruth(mean=0.01), promise="promoted"),
    "loss_worse_by_five_margins": LabelScenario(truth=LossTruth(mean=0.05), promise="promoted"),
    "one_row_in_200_loses_2_nats": LabelScenario(
        truth=LossTruth(mean=0.01, deviation=0.02, rare_frac=0.005, rare_loss=2.0), promise="promoted"
    ),
    "one_row_in_1000_loses_10_nats": LabelScenario(
        truth=LossTruth(mean=0.01, deviation=0.02, rare_frac=0.001, rare_loss=10.0), promise="promoted"
    ),
}


def run_labels(name: str, *, num_rollouts: int, seed: int) -> dict[str, Any]:
    """Return what becomes of a version whose labels decide."""
    sizes = [min(CHUNK, num_rollouts - first) for first in range(0, num_rollouts, CHUNK)]
    found = joined(
        [
            simulate_labels(
                np.random.default_rng(child),
                rollout=ROLLOUT,
                truth=LABEL_SCENARIOS[name].truth,
                num_rollouts=size,
                each=LABELS_EACH,
                most=MOST_LABELS,
            )
            for size, child in zip(sizes, np.random.SeedSequence(seed).spawn(len(sizes)), strict=True)
        ]
    )
    values = {key.replace("requests", "labels"): value for key, value in told(found).items()}
    return {"rollouts": num_rollouts, "looked_at_every": LABELS_EACH, **values}
