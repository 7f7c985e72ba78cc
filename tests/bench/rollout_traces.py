"""What many simulated rollouts' requests come to, for the challenger drawn once and met by all who decide about it.

Shape suffixes: R rollouts that are not decided yet, B buckets of the latency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from include.rollout.latency import LATENCY_BOUNDS_MS, NUM_BUCKETS, bucket_of
from include.serving.counters import Counted
from tests.served_work import work

ROWS = 8
"""Of a request."""
SLOW_MS = 60.0
"""Beyond the limit, which is about 30 ms, and within that of a champion in the last of the places."""
STORM_ERROR_FRAC = 0.3
"""Of the requests in a storm, those that fail."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a version really is.

    Args:
        error_frac: Probability that a request fails.
        shared_error_frac: Of that, the probability that it is bad for the other version too.
        latency_ms: Median of a lognormal latency.
        latency_sigma: Its spread.
        slow_frac: Share of the latencies that are `SLOW_MS` instead.
        disagreement_frac: Share of rows on which it differs from the champion.
        disagreement_spread: Intraclass correlation of the rows of a request, in (0, 1).
        turn_requests: Requests of a turn of the server, which counts one latency.
    """

    error_frac: float = 0.01
    shared_error_frac: float = 0.0
    latency_ms: float = 8.0
    latency_sigma: float = 0.5
    slow_frac: float = 0.0
    disagreement_frac: float = 0.1
    disagreement_spread: float = 0.3
    turn_requests: int = 1

    @property
    def own_error_frac(self) -> float:
        """Return the probability that a request fails which is not bad for both."""
        return (self.error_frac - self.shared_error_frac) / (1 - self.shared_error_frac)

    def bucket_probs(self) -> np.ndarray:
        """Return the probability of each bucket of the latency, shape (B,)."""
        bounds = np.asarray(LATENCY_BOUNDS_MS)
        z = np.log(bounds / self.latency_ms) / self.latency_sigma
        below = np.asarray([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])
        probs = (1 - self.slow_frac) * np.diff(np.concatenate([[0.0], below, [1.0]]))
        probs[bucket_of(SLOW_MS)] += self.slow_frac
        return probs


@dataclass(frozen=True, kw_only=True)
class Block:
    """What some requests came to for one version, one entry a rollout.

    Args:
        errors_R: Those that failed.
        shared_R: Of these, those that are bad for the other version too.
        latency_RB: Latencies by their bucket.
        disagreements_R: Sum of the shares of rows that differ.
        num: Requests.
    """

    errors_R: np.ndarray
    shared_R: np.ndarray
    latency_RB: np.ndarray
    disagreements_R: np.ndarray
    num: int

    @classmethod
    def zeros(cls, num_rollouts: int, *, num: int) -> Block:
        return cls(
            errors_R=np.zeros(num_rollouts, np.int64),
            shared_R=np.zeros(num_rollouts, np.int64),
            latency_RB=np.zeros((num_rollouts, NUM_BUCKETS), np.int64),
            disagreements_R=np.zeros(num_rollouts),
            num=num,
        )

    def put(self, at_R: np.ndarray, other: Block, rollout_R: np.ndarray) -> None:
        """Take over what another block has of some rollouts."""
        for name in ("errors_R", "shared_R", "latency_RB", "disagreements_R"):
            getattr(self, name)[at_R] = getattr(other, name)[rollout_R]


def draw(
    rng: np.random.Generator,
    truth: Truth,
    *,
    num: int,
    first: int,
    storm_R: np.ndarray,
    shared_R: np.ndarray | None = None,
) -> Block:
    """Draw requests of each rollout, of which `first` came before; in a storm more of them fail."""
    if shared_R is None:
        shared_R = rng.binomial(num, np.full(len(storm_R), truth.shared_error_frac))
    errors_R = shared_R + rng.binomial(num - shared_R, np.where(storm_R, STORM_ERROR_FRAC, truth.own_error_frac))
    num_timed = (first + num) // truth.turn_requests - first // truth.turn_requests
    timed_R = rng.hypergeometric(num - errors_R, errors_R, num_timed)  # those that fail have no latency
    latency_RB = rng.multinomial(timed_R, truth.bucket_probs())
    disagreements_R = np.zeros(len(errors_R))
    mean, spread = truth.disagreement_frac, (1 - truth.disagreement_spread) / truth.disagreement_spread
    if 0 < mean < 1:
        share = rng.beta(mean * spread, (1 - mean) * spread, size=(len(errors_R), num))
        answered = np.arange(num) < (num - errors_R)[:, None]
        disagreements_R = (rng.binomial(ROWS, share) / ROWS * answered).sum(axis=1)
    return Block(errors_R=errors_R, shared_R=shared_R, latency_RB=latency_RB, disagreements_R=disagreements_R, num=num)


@dataclass(kw_only=True)
class Trace:
    """A challenger's requests in many rollouts, block by block, in the order in which they come.

    Each is drawn once, when somebody first asks for it: all who decide about a rollout meet the very same requests.

    Args:
        rng: Draws them.
        challenger: What the version is.
        num_rollouts: How many.
        block: Requests of a block.
        has_storms: Whether errors come in storms of some 50 requests.
    """

    rng: np.random.Generator
    challenger: Truth
    num_rollouts: int
    block: int
    has_storms: bool = False
    _blocks: list[Block] = field(default_factory=list)
    _storms: list[np.ndarray] = field(default_factory=list)

    def at(self, number_R: np.ndarray, rollout_R: np.ndarray) -> tuple[Block, np.ndarray]:
        """Return the blocks of these numbers of these rollouts, and in which of them there was a storm."""
        while len(self._blocks) <= number_R.max():
            self._draw()
        found = Block.zeros(len(rollout_R), num=self.block)
        storm_R = np.zeros(len(rollout_R), bool)
        for number in np.unique(number_R):
            at_R = number_R == number
            found.put(at_R, self._blocks[number], rollout_R[at_R])
            storm_R[at_R] = self._storms[number][rollout_R[at_R]]
        return found, storm_R

    def _draw(self) -> None:
        turn = self.rng.random(self.num_rollouts)
        if not self._storms:
            storm_R = turn < 0.1
        else:
            storm_R = np.where(self._storms[-1], turn > self.block / 50, turn < self.block / 450)
        self._storms.append(storm_R & self.has_storms)
        first = self.block * len(self._blocks)
        drawn = draw(self.rng, self.challenger, num=self.block, first=first, storm_R=self._storms[-1])
        self._blocks.append(replace(drawn, latency_RB=drawn.latency_RB.astype(np.uint8)))


def counted_of_a_stand_in() -> int:
    """Return how many requests the server counts for a champion that answers one in place of a canary."""
    counted = Counted(revision=1)
    counted.add(work(is_stand_in=True))
    return sum(window.requests for window in counted.windows.values())


@dataclass(kw_only=True)
class Counts:
    """Sums of many rollouts' requests, one entry a rollout; `num` requests were meant for the version."""

    requests_R: np.ndarray
    errors_R: np.ndarray
    latency_RB: np.ndarray
    disagreements_R: np.ndarray
    num: int = 0

    @classmethod
    def zeros(cls, num_rollouts: int) -> Counts:
        return cls(
            requests_R=np.zeros(num_rollouts, np.int64),
            errors_R=np.zeros(num_rollouts, np.int64),
            latency_RB=np.zeros((num_rollouts, NUM_BUCKETS), np.int64),
            disagreements_R=np.zeros(num_rollouts),
        )

    def add(self, block: Block) -> None:
        """Count a block."""
        self.requests_R += block.num
        self.errors_R += block.errors_R
        self.latency_RB += block.latency_RB
        self.disagreements_R += block.disagreements_R
        self.num += block.num

    def add_stand_ins(self, rng: np.random.Generator, champion: Truth, failed: Block) -> None:
        """Count what a champion made of the requests that a canary failed, as the server does."""
        errors_R = failed.shared_R + rng.binomial(failed.errors_R - failed.shared_R, champion.own_error_frac)
        counted_each = counted_of_a_stand_in()
        self.requests_R += counted_each * failed.errors_R
        self.errors_R += counted_each * errors_R

    def keep(self, open_R: np.ndarray) -> None:
        """Forget the rollouts that are decided."""
        self.requests_R = self.requests_R[open_R]
        self.errors_R = self.errors_R[open_R]
        self.latency_RB = self.latency_RB[open_R]
        self.disagreements_R = self.disagreements_R[open_R]
