"""What the rollout promises, by simulation: `make bench-rollout` runs ten thousand of each, each test run a few.

A promise is broken when a version that is no worse fails more often than `false_rollback_prob`, or one that is worse
by a margin is promoted more often than `missed_regression_prob`.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from include.rollout.decision import Counters, LabelEvidence, Verdict, decide, measures_of, thresholds
from include.rollout.measures import loss
from tests.bench.rollout_decided import (
    FAIL,
    KEEP,
    NUM_MEASURES,
    PASS,
    disagreement_evidence,
    error_evidence,
    latency_evidence,
    simulate,
    verdicts,
)
from tests.bench.rollout_labels import LabelSums, LossTruth, loss_evidence
from tests.bench.rollout_scenarios import (
    CHAMPION,
    LABEL_SCENARIOS,
    MOST,
    ROLLOUT,
    SCENARIOS,
    THRESHOLD_RULES,
    by_threshold_rule,
    run,
    run_labels,
)
from tests.bench.rollout_traces import Counts, Trace, draw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.rollout_scenarios import Ended

WRITE_TO = os.environ.get("TRADEWIND_BENCH_TO")
NUM_ROLLOUTS = int(os.environ.get("TRADEWIND_BENCH_ROLLOUTS", "10000"))


def limit_of(promise: str) -> float:
    is_failing = promise == "failed"
    return ROLLOUT.false_rollback_prob if is_failing else ROLLOUT.missed_regression_prob


NAMES = [name for name, known in SCENARIOS.items() if known.look_every > 1 and known.promise]


@pytest.mark.parametrize("name", [*NAMES, *LABEL_SCENARIOS])
def test_the_promises_hold(name: str) -> None:
    """At 0.6 % of the bench's rollouts: more than `most` of them would happen once in 10,000 times at the limit."""
    num_rollouts = 60
    if name in SCENARIOS:
        promise, found = SCENARIOS[name].promise, run(name, num_rollouts=num_rollouts, seed=7).by_evidence
    else:
        promise, found = LABEL_SCENARIOS[name].promise, run_labels(name, num_rollouts=num_rollouts, seed=7)
    most = 10  # of Binomial(60, 0.05): P(X > 10) < 1e-4
    assert found[promise] * num_rollouts <= most, found
    if promise == "failed":
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
    ours, theirs, calm = Counts.zeros(8), Counts.zeros(8), np.zeros(8, bool)
    for _ in range(6):
        ours.add(draw(rng, scenario.challenger, num=30, first=ours.num, storm_R=calm))
        theirs.add(draw(rng, scenario.champion, num=30 * others_each, first=theirs.num, storm_R=calm))
        found = verdicts(ours, theirs, rollout=ROLLOUT, stage=stage)
        evidence = {
            "errors": error_evidence(ours, theirs, margin=ROLLOUT.max_error_increase_frac),
            "latency": latency_evidence(ours, theirs, rollout=ROLLOUT),
            "disagreement": disagreement_evidence(ours, rollout=ROLLOUT),
        }
        for at in range(8):
            both: dict[str, Any] = {"challenger": counters(ours, at), "champion": counters(theirs, at)}
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


def test_the_labels_are_decided_on_as_the_product_does() -> None:
    rng = np.random.default_rng(4)
    sums = LabelSums(total_R=np.zeros(8), squares_R=np.zeros(8))
    for _ in range(6):
        sums.add(LossTruth(mean=0.02, rare_frac=0.01, rare_loss=2.0).draw(rng, num_rollouts=8, num=700))
        worse, not_worse = loss_evidence(sums, rollout=ROLLOUT)
        for at in range(8):
            labels = LabelEvidence(num=sums.num, total=sums.total_R[at], total_squares=sums.squares_R[at])
            measure = loss(labels=labels, margin=ROLLOUT.max_loss_increase, is_needed=True)
            assert (measure.worse, measure.not_worse) == pytest.approx((worse[at], not_worse[at]), abs=1e-9)


def test_the_rules_of_thresholds_meet_the_same_requests() -> None:
    """Whoever asks again gets what was drawn, and asking in another order or for fewer rollouts changes nothing."""

    def drawn() -> Trace:
        return Trace(rng=np.random.default_rng(1), challenger=CHAMPION, num_rollouts=20, block=10)

    once, again = drawn(), drawn()
    by_rule = by_threshold_rule(once, *THRESHOLD_RULES["tuned_100_requests_a_check"])
    simulate(again, rng=np.random.default_rng(2), rollout=ROLLOUT, champion=CHAMPION, most=200)
    same = by_threshold_rule(again, *THRESHOLD_RULES["tuned_100_requests_a_check"])
    assert (by_rule.verdict == same.verdict).all()
    assert (by_rule.requests == same.requests).all()
    numbers, rollouts = np.asarray([7, 0, 3]), np.asarray([4, 5, 4])
    (one, _), (other, _) = once.at(numbers, rollouts), again.at(numbers, rollouts)
    assert (one.latency_RB == other.latency_RB).all()
    assert one.errors_R.tolist() == other.errors_R.tolist()


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_ten_thousand_rollouts_keep_the_promises() -> None:
    began_s = time.monotonic()
    with ProcessPoolExecutor(2) as pool:
        jobs = {
            name: pool.submit(run, name, num_rollouts=int(NUM_ROLLOUTS * scenario.share), seed=number)
            for number, (name, scenario) in enumerate(SCENARIOS.items())
        }
        on_labels = {
            name: pool.submit(run_labels, name, num_rollouts=NUM_ROLLOUTS, seed=100 + number)
            for number, name in enumerate(LABEL_SCENARIOS)
        }
        ended = {name: job.result() for name, job in jobs.items()}
        labels = {name: job.result() for name, job in on_labels.items()}
    if WRITE_TO:
        report = {**report_of(ended, labels), "seconds": round(time.monotonic() - began_s, 1)}
        Path(WRITE_TO).write_text(json.dumps(report, indent=1) + "\n")
    promises = {name: known.promise for name, known in SCENARIOS.items()}
    promises |= {name: known.promise for name, known in LABEL_SCENARIOS.items()}
    broken = {
        name: found
        for name, found in ({name: each.by_evidence for name, each in ended.items()} | labels).items()
        if promises[name] and found[promises[name]] > limit_of(promises[name])
    }
    assert not broken


def report_of(ended: Mapping[str, Ended], labels: Mapping[str, Any]) -> dict[str, Any]:
    fail_at, pass_at = thresholds(ROLLOUT, num_measures=NUM_MEASURES["shadow"])
    return {
        "rollout": ROLLOUT.model_dump(mode="json"),
        "champion": vars(CHAMPION),
        "most_requests_of_the_challenger_in_a_stage": MOST,
        "evidence_to_fail_a_shadow": float(np.exp(fail_at)),
        "evidence_to_pass": float(np.exp(pass_at)),
        "scenarios": {
            name: {
                "challenger": vars(SCENARIOS[name].challenger),
                "promised": SCENARIOS[name].promise,
                **each.by_evidence,
            }
            for name, each in ended.items()
        },
        "threshold_rule": {
            rule: {name: each.by_rule[rule] for name, each in ended.items() if each.by_rule} for rule in THRESHOLD_RULES
        },
        "late_labels": {
            name: {
                "challenger": vars(LABEL_SCENARIOS[name].truth),
                "promised": LABEL_SCENARIOS[name].promise,
                **found,
            }
            for name, found in labels.items()
        },
    }
