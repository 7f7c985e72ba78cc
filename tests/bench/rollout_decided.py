"""Many simulated rollouts at once, decided after every block of requests as `decide` would, and by rules of thresholds.

Shape suffixes: R rollouts that are not decided yet, B buckets of the latency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from include.rollout.decision import thresholds
from include.rollout.evidence import bets
from include.rollout.latency import LATENCY_BOUNDS_MS, bucket_of
from include.rollout.measures import ERROR_FRACS
from tests.bench.rollout_traces import Block, Counts, draw

if TYPE_CHECKING:
    from include.spec import RolloutSpec
    from tests.bench.rollout_traces import Trace, Truth

PLACES = range(bucket_of(2.5), bucket_of(40.0) + 1)
"""Buckets in which the champion's quantile could be: it is about 15 ms, and elsewhere no evidence is the least."""
KEEP, PASS, FAIL, LATE = range(4)
NUM_MEASURES = {"shadow": 5, "canary": 4}
"""Errors, their limit, latency, loss, and of a shadow disagreement; a test asserts it against `measures_of`."""


def evidence_above(total: Any, num: Any, limit: Any) -> np.ndarray:
    """Return `log_evidence_above` of many sums at once, and of as many limits."""
    total, num, limit = np.broadcast_arrays(np.asarray(total, float), np.asarray(num, float), np.asarray(limit, float))
    distinct, where = np.unique(limit[..., :1] if limit.ndim else limit, return_inverse=True)
    inside = [bets(float(value)) if 0 < value < 1 else bets(0.5) for value in distinct]
    table = np.moveaxis(np.asarray(inside)[where.reshape(limit[..., :1].shape if limit.ndim else ())], (-2, -1), (0, 1))
    rest = num - total
    found = np.where(rest > 0, -np.inf, table[0, 0] + total * table[0, 1])  # the first bets on no miss at all
    for weight, hit, miss in table[1:]:
        found = np.logaddexp(found, weight + total * hit + rest * miss)
    found = np.where(limit <= 0, np.where(total > 0, np.inf, 0.0), found)
    return np.where((limit >= 1) | (num == 0), 0.0, found)


def evidence_below(total: Any, num: Any, limit: Any) -> np.ndarray:
    """Return `log_evidence_below` of many sums at once."""
    return evidence_above(np.asarray(num, float) - np.asarray(total, float), num, 1 - np.asarray(limit, float))


def half_staked(elsewhere: np.ndarray) -> np.ndarray:
    """Return the champion's part of the evidence on two versions."""
    return np.logaddexp(math.log(0.5), math.log(0.5) + elsewhere)


def error_evidence(ours: Counts, theirs: Counts, *, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the evidence of `error_increase`, (worse, not worse), each of shape (R,)."""
    counted = np.stack([ours.errors_R, theirs.errors_R, theirs.requests_R])
    (own, others, num), where = np.unique(counted, axis=1, return_inverse=True)
    low, high = np.asarray(ERROR_FRACS[:-1])[:, None], np.asarray(ERROR_FRACS[1:])[:, None]
    elsewhere = np.where(low > 0, evidence_below(others, num, low), 0.0)
    worse = (evidence_above(own, ours.num, high) + half_staked(elsewhere)).min(axis=0)
    against = np.where(low + margin > 1, np.inf, evidence_below(own, ours.num, np.minimum(1.0, low + margin)))
    not_worse = (against + half_staked(evidence_above(others, num, high))).min(axis=0)
    where = where.reshape(-1)
    return worse[where], not_worse[where]


def latency_evidence(ours: Counts, theirs: Counts, *, rollout: RolloutSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return the evidence of `latency`, (worse, not worse), each of shape (R,)."""
    frac, bounds, places = rollout.latency_quantile, np.asarray(LATENCY_BOUNDS_MS), np.asarray(PLACES)
    own_BR, other_BR = np.cumsum(ours.latency_RB, axis=1).T, np.cumsum(theirs.latency_RB, axis=1).T
    own, others = own_BR[-1], other_BR[-1]
    floor, ratio = rollout.latency_floor_ms, rollout.max_latency_ratio
    may = np.searchsorted(bounds, np.maximum(floor, ratio * bounds[places]), "left")
    must = np.searchsorted(bounds, np.maximum(floor, ratio * bounds[places - 1]), "right") - 1
    elsewhere = evidence_above(other_BR[places - 1], others, frac)
    worse = (evidence_below(own_BR[may], own, frac) + half_staked(elsewhere)).min(axis=0)
    elsewhere = evidence_below(other_BR[places], others, frac)
    not_worse = (evidence_above(own_BR[must], own, frac) + half_staked(elsewhere)).min(axis=0)
    return worse, not_worse


def disagreement_evidence(ours: Counts, *, rollout: RolloutSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return the evidence of `disagreement`, (worse, not worse), each of shape (R,)."""
    total, num = ours.disagreements_R, ours.num - ours.errors_R
    limit, margin = rollout.max_disagreement_frac, rollout.disagreement_margin_frac
    return evidence_above(total, num, limit), evidence_below(total, num, limit + margin)


def verdicts(ours: Counts, theirs: Counts, *, rollout: RolloutSpec, stage: str) -> np.ndarray:
    """Return what `decide` says before the deadline, shape (R,)."""
    fail_at, pass_at = thresholds(rollout, num_measures=NUM_MEASURES[stage])
    measures = [
        error_evidence(ours, theirs, margin=rollout.max_error_increase_frac),
        latency_evidence(ours, theirs, rollout=rollout),
    ]
    if stage == "shadow":
        measures.append(disagreement_evidence(ours, rollout=rollout))
    limit = rollout.max_error_frac
    over = evidence_above(ours.errors_R, ours.num, limit)
    failed = (over >= fail_at) & (evidence_below(ours.errors_R, ours.num, limit) < pass_at)
    passed = np.ones(len(ours.errors_R), bool)
    for worse, not_worse in measures:
        failed |= (worse >= fail_at) & (not_worse < pass_at)
        passed &= not_worse >= pass_at
    return np.where(failed, FAIL, np.where(passed, PASS, KEEP))


@dataclass(kw_only=True)
class Outcome:
    """How many rollouts ended, one entry a rollout: verdict, and requests to the model until then."""

    verdict: np.ndarray
    requests: np.ndarray

    def frac(self, verdict: int) -> float:
        """Return the share of rollouts that ended so."""
        return float(np.mean(self.verdict == verdict))


def simulate(
    trace: Trace,
    *,
    rng: np.random.Generator,
    rollout: RolloutSpec,
    champion: Truth,
    most: int,
) -> Outcome:
    """Run whole rollouts: shadow, then each step of the canary, a version that fails or is late goes no further.

    Args:
        trace: The challenger's requests; it is looked at after each block.
        rng: Draws the champion's.
        rollout: The spec.
        champion: What the champion is.
        most: Requests of the challenger in a stage until its deadline.
    """
    verdict = np.full(trace.num_rollouts, PASS)
    requests, number = np.zeros(trace.num_rollouts), np.zeros(trace.num_rollouts, np.int64)
    stages = [("shadow", 1.0, 1.0)] if rollout.has_shadow else []
    stages += [("canary", (100 - share) / share, 100 / share) for share in rollout.shares_pct]
    for stage, others_each, all_each in stages:
        running = np.flatnonzero(verdict == PASS)
        verdict[running] = LATE
        ours, theirs = Counts.zeros(len(running)), Counts.zeros(len(running))
        while len(running) and ours.num < most:
            block, storm_R = trace.at(number[running], running)
            ours.add(block)
            due = round(ours.num * others_each) - theirs.num
            shared_R = block.shared_R if stage == "shadow" else None  # a shadow scores the champion's requests
            theirs.add(draw(rng, champion, num=due, first=theirs.num, storm_R=storm_R, shared_R=shared_R))
            if stage == "canary":
                theirs.add_stand_ins(rng, champion, block)
            number[running] += 1
            requests[running] += trace.block * all_each
            found = verdicts(ours, theirs, rollout=rollout, stage=stage)
            verdict[running[found != KEEP]] = found[found != KEEP]
            open_R = found == KEEP
            running = running[open_R]
            ours.keep(open_R)
            theirs.keep(open_R)
    return Outcome(verdict=verdict, requests=requests)


def simulate_threshold_rule(
    trace: Trace, *, min_success_frac: float, max_latency_ms: float, quantile: float, requests_each: int
) -> Outcome:
    """Run canaries by a rule of thresholds, as Flagger's analysis has it by default, on the same requests.

    Each interval the success rate and a quantile of the latency within it are compared with numbers. A check that
    passes raises the weight by 10 %, up to 50 %; five that fail roll back; after the check at 50 % it is promoted
    (docs.flagger.app, usage/deployment-strategies and usage/metrics: interval, threshold, stepWeight, maxWeight).

    Args:
        trace: The challenger's requests.
        min_success_frac: Least share of requests that succeed.
        max_latency_ms: Most of the latency's quantile.
        quantile: Which.
        requests_each: Requests to the model in an interval; a tenth of them are some blocks.
    """
    verdict, weight = np.full(trace.num_rollouts, KEEP), np.full(trace.num_rollouts, 0.1)
    requests, failures = np.zeros(trace.num_rollouts), np.zeros(trace.num_rollouts, int)
    may = bucket_of(max_latency_ms)
    began = number = np.zeros(trace.num_rollouts, np.int64)
    seen = Block.zeros(trace.num_rollouts, num=0)
    while len(running := np.flatnonzero(verdict == KEEP)):
        block, _ = trace.at(number[running], running)
        seen.errors_R[running] += block.errors_R
        seen.latency_RB[running] += block.latency_RB
        number = number + (verdict == KEEP)
        num = (number - began) * trace.block
        is_due = (verdict == KEEP) & (num >= np.round(requests_each * weight))
        timed = seen.latency_RB.sum(axis=1)
        is_good = seen.errors_R <= (1 - min_success_frac) * num
        is_good &= seen.latency_RB[:, : may + 1].sum(axis=1) >= quantile * timed
        requests[is_due] += requests_each
        failures += is_due & ~is_good
        verdict = np.where(is_due & is_good & (weight > 0.45), PASS, verdict)
        verdict = np.where((verdict == KEEP) & (failures >= 5), FAIL, verdict)
        weight = np.where(is_due & is_good, np.minimum(0.5, weight + 0.1), weight)
        began = np.where(is_due, number, began)
        seen.put(is_due, Block.zeros(trace.num_rollouts, num=0), np.flatnonzero(is_due))
    return Outcome(verdict=verdict, requests=requests)
