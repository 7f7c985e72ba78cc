"""Whether a trained version may go on: a pure function of what was measured and of the spec."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from include.spec import GatesSpec

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the gates look at, all on the same held-out rows.

    Args:
        num_rows: Held-out rows.
        loss_name: What the loss is called.
        loss: Of the trained version, in its own unit.
        baseline_loss: Of the best constant by the training rows.
        champion_loss: Of the champion; None if there is none or it could not be measured.
        champion: Its version; None if there is none.
        champion_problem: Why it could not be measured.
    """

    num_rows: int
    loss_name: str
    loss: float
    baseline_loss: float
    champion_loss: float | None = None
    champion: str | None = None
    champion_problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate's answer.

    Args:
        name: The field of the spec.
        verdict: What it says.
        value: What was measured, in the limit's unit; None if nothing was.
        limit: What the spec allows.
        reason: The answer in words.
    """

    name: str
    verdict: Verdict
    value: float | None
    limit: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All gates together.

    Args:
        verdict: fail if one fails, else inconclusive if one is, else pass.
        may_continue: Whether the version goes on: passed, or the spec lets inconclusive versions continue.
        gates: Each gate's answer.
    """

    verdict: Verdict
    may_continue: bool
    gates: tuple[Gate, ...]

    @property
    def reasons(self) -> list[str]:
        """What stands against the version."""
        return [gate.reason for gate in self.gates if gate.verdict != "pass"]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self) | {"gates": [asdict(gate) for gate in self.gates]}


def judge(*, measured: Measured, gates: GatesSpec) -> Judgement:
    """Hold what was measured against the spec."""
    answers = (_rows(measured, gates), _baseline(measured, gates), _champion(measured, gates))
    verdicts = {answer.verdict for answer in answers}
    verdict: Verdict = "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
    may_continue = verdict == "pass" or (verdict == "inconclusive" and gates.on_inconclusive == "continue")
    return Judgement(verdict=verdict, may_continue=may_continue, gates=answers)


def _rows(measured: Measured, gates: GatesSpec) -> Gate:
    enough = measured.num_rows >= gates.min_validation_rows
    return Gate(
        name="min_validation_rows",
        verdict="pass" if enough else "inconclusive",
        value=measured.num_rows,
        limit=gates.min_validation_rows,
        reason=f"{measured.num_rows} held-out rows, {gates.min_validation_rows} needed",
    )


def _baseline(measured: Measured, gates: GatesSpec) -> Gate:
    gain, limit = measured.baseline_loss - measured.loss, gates.min_loss_gain_vs_baseline
    return Gate(
        name="min_loss_gain_vs_baseline",
        verdict="pass" if gain >= limit else "fail",
        value=gain,
        limit=limit,
        reason=f"{measured.loss_name} {measured.loss:.4f}, {gain:.4f} below the baseline's; at least {limit} needed",
    )


def _champion(measured: Measured, gates: GatesSpec) -> Gate:
    name, limit = "max_loss_increase_vs_champion", gates.max_loss_increase_vs_champion
    if measured.champion is None:
        return Gate(name=name, verdict="pass", value=None, limit=limit, reason="there is no champion to compare with")
    if measured.champion_loss is None:
        reason = f"champion {measured.champion} could not be measured: {measured.champion_problem}"
        return Gate(name=name, verdict="inconclusive", value=None, limit=limit, reason=reason)
    increase = measured.loss - measured.champion_loss
    return Gate(
        name=name,
        verdict="pass" if increase <= limit else "fail",
        value=increase,
        limit=limit,
        reason=f"{measured.loss_name} {measured.loss:.4f}, champion {measured.champion} has "
        f"{measured.champion_loss:.4f} on the same rows; an increase of {limit} is allowed",
    )
