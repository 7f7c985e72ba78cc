"""Many simulated challengers at once, decided after every partition of late labels as `decide` would.

Shape suffix: R rollouts, N labels of a partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from include.rollout.decision import thresholds
from include.rollout.evidence import MEAN_BETS
from include.rollout.measures import LOSS_RANGE_MARGINS
from tests.bench.rollout_decided import FAIL, KEEP, LATE, NUM_MEASURES, PASS, Outcome

if TYPE_CHECKING:
    from include.spec import RolloutSpec


@dataclass(frozen=True, kw_only=True)
class LossTruth:
    """By how much a challenger's loss on an example really is higher than the champion's.

    Args:
        mean: Of all examples.
        deviation: Of those that are not rare.
        rare_frac: Share of the examples that lose `rare_loss` more.
        rare_loss: How much.
    """

    mean: float = 0.0
    deviation: float = 0.2
    rare_frac: float = 0.0
    rare_loss: float = 0.0

    def draw(self, rng: np.random.Generator, *, num_rollouts: int, num: int) -> np.ndarray:
        """Return differences of losses, shape (R, N)."""
        usual = self.mean - self.rare_frac * self.rare_loss
        differences_RN = rng.normal(usual, self.deviation, (num_rollouts, num))
        rare_R = rng.binomial(num, self.rare_frac, num_rollouts)
        return differences_RN + self.rare_loss * (np.arange(num) < rare_R[:, None])


@dataclass(kw_only=True)
class LabelSums:
    """What labels said so far, one entry a rollout."""

    total_R: np.ndarray
    squares_R: np.ndarray
    num: int = 0

    def add(self, differences_RN: np.ndarray) -> None:
        """Count a partition."""
        self.total_R = self.total_R + differences_RN.sum(axis=1)
        self.squares_R = self.squares_R + (differences_RN**2).sum(axis=1)
        self.num += differences_RN.shape[1]


def mean_evidence(total: np.ndarray, squares: np.ndarray, *, num: int, limit: float, reach: float) -> np.ndarray:
    """Return `log_evidence_of_mean` of many sums at once."""
    centred = (total - num * limit) / reach
    spread = np.maximum(0.0, np.maximum(squares, total**2 / num) - 2 * limit * total + num * limit**2) / reach**2
    found = np.full(len(total), -np.inf)
    for bet in MEAN_BETS:
        found = np.logaddexp(found, bet * centred + (bet + np.log1p(-bet)) * spread)
    return found - np.log(len(MEAN_BETS))


def loss_evidence(sums: LabelSums, *, rollout: RolloutSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return the evidence of `loss`, (worse, not worse), each of shape (R,)."""
    margin = rollout.max_loss_increase
    reach = LOSS_RANGE_MARGINS * margin
    return (
        mean_evidence(sums.total_R, sums.squares_R, num=sums.num, limit=0.0, reach=reach),
        mean_evidence(-sums.total_R, sums.squares_R, num=sums.num, limit=-margin, reach=reach),
    )


def simulate_labels(
    rng: np.random.Generator, *, rollout: RolloutSpec, truth: LossTruth, num_rollouts: int, each: int, most: int
) -> Outcome:
    """Decide by the loss alone, of a rollout that needs labels and whose other measures have passed.

    Args:
        rng: Draws the labels.
        rollout: The spec.
        truth: What the challenger is.
        num_rollouts: How many.
        each: Labels of a partition; it is looked at after each.
        most: Labels until the deadline.
    """
    fail_at, pass_at = thresholds(rollout, num_measures=NUM_MEASURES["canary"])
    verdict, labels = np.full(num_rollouts, KEEP), np.zeros(num_rollouts)
    sums = LabelSums(total_R=np.zeros(num_rollouts), squares_R=np.zeros(num_rollouts))
    while sums.num < most and (verdict == KEEP).any():
        sums.add(truth.draw(rng, num_rollouts=num_rollouts, num=each))
        labels[verdict == KEEP] += each
        worse, not_worse = loss_evidence(sums, rollout=rollout)
        found = np.where(not_worse >= pass_at, PASS, np.where(worse >= fail_at, FAIL, KEEP))
        verdict = np.where(verdict == KEEP, found, verdict)
    return Outcome(verdict=np.where(verdict == KEEP, LATE, verdict), requests=labels)
