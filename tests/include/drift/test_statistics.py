from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from include.drift.statistics import (
    jensen_shannon_divergence,
    kolmogorov_smirnov,
    population_stability_index,
)
from include.errors import BadInputError

ALL = (population_stability_index, jensen_shannon_divergence, kolmogorov_smirnov)


@pytest.fixture(params=range(5))
def counts(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(request.param)
    return rng.integers(1, 900, size=20), rng.integers(1, 90, size=20)


def test_psi_is_the_sum_of_both_relative_entropies(counts: tuple[np.ndarray, np.ndarray]) -> None:
    reference_B, current_B = counts
    expected = stats.entropy(current_B, reference_B) + stats.entropy(reference_B, current_B)
    assert population_stability_index(reference_B=reference_B, current_B=current_B) == pytest.approx(expected)


def test_psi_of_two_bins_equals_the_closed_form() -> None:
    p, q = 0.3, 0.6
    expected = (q - p) * np.log(q * (1 - p) / (p * (1 - q)))
    got = population_stability_index(reference_B=[p, 1 - p], current_B=[q, 1 - q])
    assert got == pytest.approx(expected)


def test_psi_stays_finite_over_an_empty_bin() -> None:
    got = population_stability_index(reference_B=[10, 0], current_B=[5, 5])
    assert got == pytest.approx((0.5 - 1) * np.log(0.5) + (0.5 - 1e-4) * np.log(0.5 / 1e-4))


def test_psi_without_drift_is_a_scaled_chi_square() -> None:
    rng = np.random.default_rng(7)
    share_B = rng.dirichlet(np.full(10, 20.0))
    n, m = 20_000, 4_000
    found = [
        population_stability_index(reference_B=rng.multinomial(n, share_B), current_B=rng.multinomial(m, share_B))
        for _ in range(400)
    ]
    scaled = np.array(found) / (1 / n + 1 / m)
    assert stats.kstest(scaled, stats.chi2(df=9).cdf).pvalue > 0.01


def test_jensen_shannon_is_the_square_of_scipys_distance(counts: tuple[np.ndarray, np.ndarray]) -> None:
    reference_B, current_B = counts
    current_B[3] = 0
    expected = jensenshannon(reference_B, current_B) ** 2
    assert jensen_shannon_divergence(reference_B=reference_B, current_B=current_B) == pytest.approx(expected)


def test_kolmogorov_smirnov_on_bins_equals_scipy_on_the_binned_rows(counts: tuple[np.ndarray, np.ndarray]) -> None:
    reference_B, current_B = counts
    bins = np.arange(20)
    expected = stats.ks_2samp(np.repeat(bins, reference_B), np.repeat(bins, current_B)).statistic
    assert kolmogorov_smirnov(reference_B=reference_B, current_B=current_B) == pytest.approx(expected)


@pytest.mark.parametrize("measure", ALL)
def test_scale_of_counts_does_not_matter(measure: object, counts: tuple[np.ndarray, np.ndarray]) -> None:
    reference_B, current_B = counts
    once = measure(reference_B=reference_B, current_B=current_B)
    assert measure(reference_B=reference_B * 7, current_B=current_B * 3) == pytest.approx(once)
    assert measure(reference_B=reference_B, current_B=reference_B * 3) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize(
    ("reference_B", "current_B", "message"),
    [
        ([1, 2], [1, 2, 3], r"same bins; got shapes \(2,\) and \(3,\)"),
        ([0, 0], [1, 2], "sum to more than 0; got the sums 0 and 3"),
        ([1, 2], [0, 0], "sum to more than 0; got the sums 3 and 0"),
        ([1, 2], [3, -1], "at least 0"),
        ([1, float("nan")], [3, 1], "got the sums nan and 4"),
    ],
)
def test_counts_that_cannot_be_compared_are_refused(
    measure: object, reference_B: list[float], current_B: list[float], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        measure(reference_B=reference_B, current_B=current_B)
