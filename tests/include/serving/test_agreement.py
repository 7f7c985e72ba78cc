from __future__ import annotations

import math
from typing import Any

import pytest

from include.serving.agreement import disagreement_frac


@pytest.mark.parametrize(
    ("ours", "theirs", "frac"),
    [
        ([0.5, 0.5], [0.75, 0.25], 0.0),  # a difference of the tolerance is none
        ([0.5, 0.5], [0.76, 0.5], 0.5),
        ([0.5, 0.5], [0.0, 1.0], 1.0),
        ([math.nan], [0.5], 1.0),
        ([[0.25, 0.5, 0.25]], [[0.5, 0.25, 0.25]], 0.0),
        ([[0.2, 0.5, 0.3]], [[0.5, 0.25, 0.25]], 1.0),
        ([[0.5, 0.5]], [[0.5, 0.25, 0.25]], 1.0),  # other classes
        ([0.5], [0.5, 0.5], 1.0),
        ([], [], 0.0),
    ],
)
def test_rows_that_differ_by_more_than_the_tolerance_disagree(ours: Any, theirs: Any, frac: float) -> None:
    assert disagreement_frac(ours=ours, theirs=theirs, tolerance=0.25) == frac
