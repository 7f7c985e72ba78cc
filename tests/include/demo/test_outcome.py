import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from include.demo.outcome import Month, Version, require_complete
from include.errors import ServiceError
from include.rollout.ledger import Entry

BOOTSTRAP = Month(
    key="2013-03",
    num_rows={"flights": 10, "weather": 5},
    num_quarantined=0,
    num_entities=3,
    is_parity_checked=True,
    num_requests={},
    loss=None,
    baseline_loss=None,
    verdict="bootstrap",
    reasons=(),
)
RETRAIN = dataclasses.replace(BOOTSTRAP, key="2013-06", verdict="retrain")


def version(number: str, *, loss: float = 0.5) -> Version:
    metrics = {"validation": {"loss": loss}, "baseline": {"loss": 0.6}}
    return Version(version=number, window=("2013-01", "2013-03"), metrics=metrics)


def entry(kind: str, number: str, **evidence: Any) -> Entry:
    at, chain = datetime(2013, 1, 1, tzinfo=UTC), {"previous_hash": "", "hash": ""}
    return Entry(seq=1, key="k", model="m", kind=kind, subject=number, evidence=evidence, actor="a", at=at, **chain)


COMPLETE: dict[str, Any] = {
    "months": [BOOTSTRAP, RETRAIN],
    "versions": [version("1"), version("2")],
    "entries": [entry("bootstrap", "1", champion="1"), entry("promote", "2", champion="2")],
    "reports": {"2013-06"},
    "champion": "2",
}


def test_a_complete_loop_passes() -> None:
    require_complete(**COMPLETE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"months": [dataclasses.replace(BOOTSTRAP, num_rows={"flights": 0})]}, "2013-03 has no rows"),
        ({"months": [dataclasses.replace(BOOTSTRAP, is_parity_checked=False)]}, "2013-03 has no rows or no checked"),
        ({"reports": set()}, "2013-06 fired and has no drift report"),
        ({"versions": []}, "2 trainings were decided on and none registered"),
        ({"versions": [version("1", loss=0.6)]}, "v1 has log loss 0.6000, the base rate 0.6000"),
        ({"champion": None}, r"the ledger names champion \['2'\], the server routes None"),
        ({"entries": []}, r"the ledger names champion \[\]"),
        ({"entries": [*COMPLETE["entries"], entry("roll_back", "3", decided_by=[])]}, "v3 was rolled back without"),
    ],
)
def test_what_is_missing_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ServiceError, match=message):
        require_complete(**COMPLETE | changed)


def test_a_measured_roll_back_is_a_result() -> None:
    rolled_back = entry("roll_back", "3", champion="2", decided_by=[7])
    require_complete(**COMPLETE | {"entries": [*COMPLETE["entries"], rolled_back]})
