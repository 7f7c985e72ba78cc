"""Distances between two binned distributions, and what a recalibration of scores would win.

Shape suffixes: B bins, N rows. Counts may be raw counts or any non-negative weights; they are normalised here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    Counts = Sequence[float] | np.ndarray


def population_stability_index(*, reference_B: Counts, current_B: Counts, floor_frac: float = 1e-4) -> float:
    """Return the symmetric distance between two binned distributions, in nats; 0 means identical.

    PSI = sum_b (c_b - r_b) * ln(c_b / r_b), with r and c normalised to sum to 1. It is Jeffreys' divergence
    KL(c|r) + KL(r|c).
    Source: Jeffreys (1946), Proc. R. Soc. A 186; Kullback and Leibler (1951), eq. 2.6; as a monitor of scores: Lewis
    (1994), An Introduction to Credit Scoring. Without drift and with n and m rows it is about (1/n + 1/m) times a
    chi-square with B - 1 degrees of freedom: Yurdakul (2018), Statistical Properties of PSI.

    Args:
        reference_B: Counts per bin, shape (B,), at least one positive.
        current_B: Counts per bin, shape (B,), same bins, same order, at least one positive.
        floor_frac: Smallest share that a bin may have, in (0, 1), so that ln stays finite.

    Raises:
        BadInputError: The shapes differ, a count is negative, or all are 0.

    >>> population_stability_index(reference_B=[1, 1], current_B=[1, 1])
    0.0
    >>> round(population_stability_index(reference_B=[50, 50], current_B=[20, 80]), 4)
    0.4159
    """
    import numpy as np

    reference_B, current_B = _shares(reference_B, current_B)
    reference_B, current_B = np.maximum(reference_B, floor_frac), np.maximum(current_B, floor_frac)
    return float(np.sum((current_B - reference_B) * np.log(current_B / reference_B)))


def jensen_shannon_divergence(*, reference_B: Counts, current_B: Counts) -> float:
    """Return the divergence of two binned distributions from their middle, in nats, from 0 to ln 2.

    JS = H((r + c) / 2) - (H(r) + H(c)) / 2, with H the Shannon entropy; bins that are empty on one side need no floor.
    Source: Lin (1991), IEEE Trans. Inf. Theory 37(1), section IV.

    Args:
        reference_B: Counts per bin, shape (B,), at least one positive.
        current_B: Counts per bin, shape (B,), same bins, same order, at least one positive.

    Raises:
        BadInputError: The shapes differ, a count is negative, or all are 0.

    >>> jensen_shannon_divergence(reference_B=[3, 1], current_B=[6, 2])
    0.0
    >>> round(jensen_shannon_divergence(reference_B=[1, 0], current_B=[0, 1]), 4)
    0.6931
    """
    import numpy as np

    reference_B, current_B = _shares(reference_B, current_B)
    middle_B = (reference_B + current_B) / 2

    def divergence(share_B: np.ndarray) -> float:
        seen_B = share_B > 0
        return float(np.sum(share_B[seen_B] * np.log(share_B[seen_B] / middle_B[seen_B])))

    return max(0.0, (divergence(reference_B) + divergence(current_B)) / 2)


def kolmogorov_smirnov(*, reference_B: Counts, current_B: Counts) -> float:
    """Return the largest distance between two cumulative distributions over ordered bins, from 0 to 1.

    D = max_b |R_b - C_b|, with R and C the cumulative shares. On bins it is at most the exact two-sample statistic, and
    misses at most the largest share of a single bin.
    Source: Smirnov (1939); Massey (1951), J. Am. Stat. Assoc. 46(253).

    Args:
        reference_B: Counts per bin in rising order, shape (B,), at least one positive.
        current_B: Counts per bin, shape (B,), same bins, same order, at least one positive.

    Raises:
        BadInputError: The shapes differ, a count is negative, or all are 0.

    >>> kolmogorov_smirnov(reference_B=[1, 1, 2], current_B=[2, 2, 0])
    0.5
    """
    import numpy as np

    reference_B, current_B = _shares(reference_B, current_B)
    return float(np.max(np.abs(np.cumsum(reference_B) - np.cumsum(current_B))))


def _shares(reference_B: Counts, current_B: Counts) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    reference_B, current_B = np.asarray(reference_B, dtype=np.float64), np.asarray(current_B, dtype=np.float64)
    if reference_B.shape != current_B.shape or reference_B.ndim != 1:
        raise BadInputError(
            f"two binned distributions must have the same bins; got shapes {reference_B.shape} and {current_B.shape}. "
            "Nothing was measured. Count both over the same edges."
        )
    totals = reference_B.sum(), current_B.sum()
    if not min(totals) > 0 or min(reference_B.min(), current_B.min()) < 0:
        raise BadInputError(
            f"counts must be at least 0 and sum to more than 0; got the sums {totals[0]:g} and {totals[1]:g}. "
            "Nothing was measured. Gather rows first."
        )
    return reference_B / totals[0], current_B / totals[1]
