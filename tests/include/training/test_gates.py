from __future__ import annotations

import pytest

from include.spec import GatesSpec
from include.training.gates import Measured, judge

GATES = GatesSpec(min_loss_gain_vs_baseline=0.125, max_loss_increase_vs_champion=0.25, min_validation_rows=500)
GOOD = {"num_rows": 500, "loss_name": "log loss", "loss": 0.5, "baseline_loss": 0.625}
CHAMPION = {"champion": "3", "champion_loss": 0.25}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"num_rows": 499}, "inconclusive"),
        ({"baseline_loss": 0.6249}, "fail"),
        ({**CHAMPION}, "pass"),
        ({**CHAMPION, "champion_loss": 0.2499}, "fail"),
        ({"champion": "3", "champion_problem": "its package is gone"}, "inconclusive"),
        ({"num_rows": 499, "baseline_loss": 0.4}, "fail"),
    ],
)
def test_each_side_of_each_limit(changes: dict[str, object], verdict: str) -> None:
    judgement = judge(measured=Measured(**{**GOOD, **changes}), gates=GATES)  # type: ignore[arg-type]
    assert judgement.verdict == verdict
    assert judgement.may_continue == (verdict == "pass")
    assert bool(judgement.reasons) == (verdict != "pass")


def test_the_spec_says_what_an_inconclusive_gate_does() -> None:
    gates = GATES.model_copy(update={"on_inconclusive": "continue"})
    few = Measured(**{**GOOD, "num_rows": 1})  # type: ignore[arg-type]
    assert judge(measured=few, gates=gates).may_continue
    bad = Measured(**{**GOOD, "num_rows": 1, "loss": 0.7})  # type: ignore[arg-type]
    assert not judge(measured=bad, gates=gates).may_continue


def test_a_champion_that_could_not_be_measured_is_neither_better_nor_worse() -> None:
    measured = Measured(**GOOD, champion="3", champion_problem="its package is gone")  # type: ignore[arg-type]
    gate = judge(measured=measured, gates=GATES).gates[-1]
    assert (gate.verdict, gate.value) == ("inconclusive", None)
    assert "its package is gone" in gate.reason


def test_a_judgement_is_json() -> None:
    import json

    judgement = judge(measured=Measured(**GOOD), gates=GATES)  # type: ignore[arg-type]
    found = json.loads(json.dumps(judgement.to_dict()))
    assert [gate["name"] for gate in found["gates"]] == [
        "min_validation_rows",
        "min_loss_gain_vs_baseline",
        "max_loss_increase_vs_champion",
    ]
