"""Many simulated rollouts at once: requests are drawn, and decided after every few of them as `decide` would.

Shape suffixes: R rollouts that are not decided yet, B buckets of the latency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from include.rollout.decision import thresholds
from include.rollout.evidence import bets
from include.rollout.latency import LATENCY_BOUNDS_MS, NUM_BUCKETS, bucket_of
from include.rollout.measures import ERROR_FRACS

if TYPE_CHECKING:
    from include.spec import RolloutSpec

ROWS = 8
"""Of a request."""
PLACES = range(bucket_of(2.5), bucket_of(40.0) + 1)
"""Buckets in which the champion's quantile could be: it is about 15 ms, and elsewhere no evidence is the least."""
SLOW_MS = 60.0
"""Beyond the limit, which is about 30 ms, and within that of a champion in the last of the places."""
KEEP, PASS, FAIL, LATE = range(4)
NUM_MEASURES = {"shadow": 5, "canary": 4}
"""Errors, their limit, latency, loss, and of a shadow disagreement; a test asserts it against `measures_of`."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a version really is.

    Args:
        error_frac: Probability that a request fails.
        latency_ms: Median of a lognormal latency.
        latency_sigma: Its spread.
        slow_frac: Share of the latencies that are `SLOW_MS` instead.
        disagreement_frac: Share of rows on which it differs from the champion.
        disagreement_spread: Intraclass correlation of the rows of a request, in (0, 1).
        turn_requests: Requests of a turn of the server, which counts one latency.
    """

    error_frac: float = 0.01
    latency_ms: float = 8.0
    latency_sigma: float = 0.5
    slow_frac: float = 0.0
    disagreement_frac: float = 0.1
    disagreement_spread: float = 0.3
    turn_requests: int = 1

    def bucket_probs(self) -> np.ndarray:
        """Return the probability of each bucket of the latency, shape (B,)."""
        bounds = np.asarray(LATENCY_BOUNDS_MS)
        z = np.log(bounds / self.latency_ms) / self.latency_sigma
        below = np.asarray([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])
        probs = (1 - self.slow_frac) * np.diff(np.concatenate([[0.0], below, [1.0]]))
        probs[bucket_of(SLOW_MS)] += self.slow_frac
        return probs


@dataclass(kw_only=True)
class Counts:
    """Sums of many rollouts' requests, one entry a rollout."""

    errors_R: np.ndarray
    latency_RB: np.ndarray
    disagreements_R: np.ndarray
    num: int = 0

    @classmethod
    def zeros(cls, num_rollouts: int) -> Counts:
        return cls(
            errors_R=np.zeros(num_rollouts, np.int64),
            latency_RB=np.zeros((num_rollouts, NUM_BUCKETS), np.int64),
            disagreements_R=np.zeros(num_rollouts),
        )

    def add(self, rng: np.random.Generator, truth: Truth, *, num: int, storm_R: np.ndarray | None) -> None:
        """Draw `num` requests of each rollout; in a storm more of them fail."""
        fail_R = np.full(len(self.errors_R), truth.error_frac)
        if storm_R is not None:
            fail_R = np.where(storm_R, 0.3, truth.error_frac)
        errors_R = rng.binomial(num, fail_R)
        self.errors_R += errors_R
        num_timed = (self.num + num) // truth.turn_requests - self.num // truth.turn_requests
        timed_R = rng.hypergeometric(num - errors_R, errors_R, num_timed)  # those that fail have no latency
        self.latency_RB += rng.multinomial(timed_R, truth.bucket_probs())
        mean, spread = truth.disagreement_frac, (1 - truth.disagreement_spread) / truth.disagreement_spread
        if 0 < mean < 1:
            share = rng.beta(mean * spread, (1 - mean) * spread, size=(len(errors_R), num))
            differing = rng.binomial(ROWS, share) / ROWS
            answered = np.arange(num) < (num - errors_R)[:, None]
            self.disagreements_R += (differing * answered).sum(axis=1)
        self.num += num

    def keep(self, open_R: np.ndarray) -> None:
        """Forget the rollouts that are decided."""
        self.errors_R = self.errors_R[open_R]
        self.latency_RB = self.latency_RB[open_R]
        self.disagreements_R = self.disagreements_R[open_R]


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
    pairs, where = np.unique(np.stack([ours.errors_R, theirs.errors_R]), axis=1, return_inverse=True)
    low, high = np.asarray(ERROR_FRACS[:-1])[:, None], np.asarray(ERROR_FRACS[1:])[:, None]
    elsewhere = np.where(low > 0, evidence_below(pairs[1], theirs.num, low), 0.0)
    worse = (evidence_above(pairs[0], ours.num, high) + half_staked(elsewhere)).min(axis=0)
    against = np.where(low + margin > 1, np.inf, evidence_below(pairs[0], ours.num, np.minimum(1.0, low + margin)))
    not_worse = (against + half_staked(evidence_above(pairs[1], theirs.num, high))).min(axis=0)
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
    rng: np.random.Generator,
    *,
    rollout: RolloutSpec,
    challenger: Truth,
    champion: Truth,
    num_rollouts: int,
    look_every: int,
    most: int,
    has_storms: bool = False,
) -> Outcome:
    """Run whole rollouts: shadow, then each step of the canary, a version that fails or is late goes no further.

    Args:
        rng: Draws the requests.
        rollout: The spec.
        challenger: What the challenger is.
        champion: What the champion is.
        num_rollouts: How many.
        look_every: Requests of the challenger between two looks.
        most: Requests of the challenger in a stage until its deadline.
        has_storms: Whether both versions' errors come in storms of some 50 requests.
    """
    verdict = np.full(num_rollouts, PASS)
    requests = np.zeros(num_rollouts)
    stages = [("shadow", 1.0, 1.0)] if rollout.has_shadow else []
    stages += [("canary", (100 - share) / share, 100 / share) for share in rollout.shares_pct]
    for stage, others_each, all_each in stages:
        running = np.flatnonzero(verdict == PASS)
        verdict[running] = LATE
        ours, theirs = Counts.zeros(len(running)), Counts.zeros(len(running))
        storm_R = rng.random(len(running)) < 0.1 if has_storms else None
        while len(running) and ours.num < most:
            ours.add(rng, challenger, num=look_every, storm_R=storm_R)
            due = round((ours.num) * others_each) - theirs.num
            theirs.add(rng, champion, num=due, storm_R=storm_R)
            requests[running] += look_every * all_each
            found = verdicts(ours, theirs, rollout=rollout, stage=stage)
            verdict[running[found != KEEP]] = found[found != KEEP]
            open_R = found == KEEP
            running = running[open_R]
            ours.keep(open_R)
            theirs.keep(open_R)
            if storm_R is not None:
                calm, turn = storm_R[open_R], rng.random(len(running))
                storm_R = np.where(calm, turn > look_every / 50, turn < look_every / 450)
    return Outcome(verdict=verdict, requests=requests)


def simulate_threshold_rule(
    rng: np.random.Generator,
    *,
    challenger: Truth,
    min_success_frac: float,
    max_latency_ms: float,
    quantile: float,
    num_rollouts: int,
    requests_each: int,
) -> Outcome:
    """Run canaries by a rule of thresholds, as Flagger's analysis has it by default.

    Each interval the success rate and a quantile of the latency within it are compared with numbers. A check that
    passes raises the weight by 10 %, up to 50 %; five that fail roll back; after the check at 50 % it is promoted
    (docs.flagger.app, usage/deployment-strategies and usage/metrics: interval, threshold, stepWeight, maxWeight).

    Args:
        rng: Draws the requests.
        challenger: What the challenger is.
        min_success_frac: Least share of requests that succeed.
        max_latency_ms: Most of the latency's quantile.
        quantile: Which.
        num_rollouts: How many.
        requests_each: Requests to the model in an interval.
    """
    verdict = np.full(num_rollouts, KEEP)
    requests, failures, weight = (np.zeros(num_rollouts), np.zeros(num_rollouts, int), np.full(num_rollouts, 0.1))
    may = bucket_of(max_latency_ms)
    while (verdict == KEEP).any():
        num = np.maximum(1, np.round(requests_each * weight).astype(int))
        errors = rng.binomial(num, challenger.error_frac)
        latency = np.cumsum(rng.multinomial(num - errors, challenger.bucket_probs()), axis=1)
        is_good = (errors <= (1 - min_success_frac) * num) & (latency[:, may] >= quantile * latency[:, -1])
        is_open = verdict == KEEP
        requests[is_open] += requests_each
        failures += ~is_good
        verdict = np.where(is_open & is_good & (weight > 0.45), PASS, verdict)
        verdict = np.where((verdict == KEEP) & (failures >= 5), FAIL, verdict)
        weight = np.where(is_good, np.minimum(0.5, weight + 0.1), weight)
    return Outcome(verdict=verdict, requests=requests)
