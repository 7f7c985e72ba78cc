from __future__ import annotations

from typing import Any

import pytest

from include.validation.announcement import is_announced


def extra(checksum: str, partition: str = "2013-01") -> dict[str, Any]:
    return {"partition": partition, "tables": {"flights": {"version": 1, "num_rows": 2, "checksum": checksum}}}


@pytest.mark.parametrize(
    ("earlier", "announced"),
    [
        ([], False),
        ([extra("a")], True),
        ([extra("a") | {"tables": {"flights": {"version": 9, "checksum": "a"}}}], True),
        ([extra("b")], False),
        ([extra("a", "2013-02")], False),
        ([extra("a"), extra("b")], False),
        ([extra("b"), extra("a")], True),
        ([extra("a"), extra("b", "2013-02")], True),
        ([{}, {"from_rest_api": True}], False),
        ([{"partition": "2013-01"}], False),
        ([extra("a") | {"tables": {}}], False),
    ],
)
def test_only_the_newest_event_of_the_partition_counts(earlier: list[dict[str, Any]], announced: bool) -> None:
    assert is_announced(extra("a"), earlier=earlier) is announced
