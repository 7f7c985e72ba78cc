"""How far two versions agree on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def disagreement_frac(*, ours: Sequence[Any], theirs: Sequence[Any], tolerance: float) -> float:
    """Return the share of a request's rows whose predictions differ by more than the tolerance, from 0 to 1.

    Of several classes the largest difference of a probability counts; answers of other classes never agree.

    Args:
        ours: A number for each row, or a list of them for each.
        theirs: The other version's, of the same rows.
        tolerance: In the unit of the predictions; a difference of so much is none.

    >>> disagreement_frac(ours=[0.1, 0.9], theirs=[0.2, 0.5], tolerance=0.25)
    0.5
    >>> disagreement_frac(ours=[[0.1, 0.9]], theirs=[[0.4, 0.6]], tolerance=0.25)
    1.0
    """
    if len(ours) != len(theirs):
        return 1.0
    differing = sum(not _distance(one, other) <= tolerance for one, other in zip(ours, theirs, strict=True))  # NaN too
    return differing / len(ours) if ours else 0.0


def _distance(one: Any, other: Any) -> float:
    if isinstance(one, float | int):
        return float(abs(one - other))
    if len(one) != len(other):
        return float("inf")
    return float(max(abs(mine - yours) for mine, yours in zip(one, other, strict=True)))
