from __future__ import annotations

from collections import Counter

import pytest

from include.serving.reservoir import Reservoir, WorkSample
from tests.served_work import work


def sample(num_items: int, *, size: int, seed: str, step: int = 1) -> list[int]:
    """Return the items that are kept of 0, 1, ..., given so many at a time."""
    reservoir, kept = Reservoir(size=size, seed=seed), [-1] * size
    for first in range(0, num_items, step):
        for item, place in reservoir.places(min(step, num_items - first)):
            kept[place] = first + item
    return kept


@pytest.mark.parametrize("step", [1, 7, 40])
def test_each_item_is_kept_as_often(step: int) -> None:
    num_items, size, num_samples = 40, 4, 4000
    found = Counter(
        item for seed in range(num_samples) for item in sample(num_items, size=size, seed=str(seed), step=step)
    )
    expected = num_samples * size / num_items
    chi_squared = sum((found[item] - expected) ** 2 / expected for item in range(num_items))
    assert chi_squared < 72.1  # the 0.999 quantile of chi-squared with 39 degrees of freedom
    assert sum(found.values()) == num_samples * size


def test_pairs_are_kept_as_often_as_chance_says() -> None:
    num_samples = 6000
    found = Counter(tuple(sorted(sample(6, size=2, seed=str(seed)))) for seed in range(num_samples))
    expected = num_samples / 15
    assert len(found) == 15
    assert sum((count - expected) ** 2 / expected for count in found.values()) < 36.1  # 0.999 of 14 degrees


def test_few_items_are_all_kept_and_a_seed_gives_the_same_sample() -> None:
    assert sample(3, size=3, seed="a") == [0, 1, 2]
    assert sample(999, size=3, seed="a") == sample(999, size=3, seed="a", step=9)
    assert sample(999, size=3, seed="a") != sample(999, size=3, seed="b")


def test_each_version_has_its_sample_and_its_weight() -> None:
    kept = WorkSample(rows=4)
    num_lost = sum(kept.add(work(number)) for number in range(50))
    num_lost += kept.add(work(1, version="2", num_rows=3))
    assert num_lost == 96
    assert kept.num_lost == 96
    rows = list(kept.kept())
    assert Counter((row.version, row.sampling_weight) for row in rows) == {("1", 25.0): 4, ("2", 1.0): 3}
    assert {row.num_rows for row in rows} == {1}
    assert [row.example_ids for row in rows if row.version == "2"] == [["e1-0"], ["e1-1"], ["e1-2"]]
    assert rows[-1].columns == {"carrier": ["AA"], "temp": [None]}


def test_failed_work_has_no_rows_and_what_cannot_be_written_is_lost() -> None:
    kept = WorkSample(rows=4)
    assert kept.add(work(1, predictions=None)) == 0
    assert kept.add(work(2, columns={"temp": [object(), 1.0]})) == 1
    assert kept.num_rows == 1
