"""Whether a challenger may take more traffic: a pure function of what was counted and of the spec.

No clock, no I/O, no memory: the evidence is a function of counts that holds at any time (`include.rollout.evidence`),
so a decision may be asked for after every request, by several processes, and after a crash.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from include.rollout.contradictions import problems_of, runs_backwards
from include.rollout.measures import Measure, disagreement, error_increase, error_limit, latency, loss

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from include.spec import RolloutSpec

Stage = Literal["shadow", "canary"]


class Verdict(StrEnum):
    """What to do next. Only `keep_waiting` is not final."""

    KEEP_WAITING = "keep_waiting"
    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What one version did in one role since the routes last changed: sums that any target can tell.

    Args:
        requests: Requests that it scored or failed to score; a caller's own mistakes are not counted.
        errors: Those that it failed to score.
        latency_counts: Of the scored requests, those that were timed, by `LATENCY_BOUNDS_MS` of their encoding and
            inference, and one more for those beyond; empty: none.
        num_pairs: Requests that both it, as a shadow, and the champion scored.
        num_disagreements: Over these, the sum of the shares of rows whose two predictions differ by more than
            `agreement_tolerance`; an integer where requests have one row.
    """

    requests: int = 0
    errors: int = 0
    latency_counts: tuple[int, ...] = ()
    num_pairs: int = 0
    num_disagreements: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LabelEvidence:
    """How much worse a challenger's loss was than the champion's, on examples with labels that both scored.

    Args:
        version: The challenger.
        champion: The champion.
        num: Examples.
        total: Sum of the differences of their losses, challenger less champion.
        total_squares: Sum of the differences' squares.
    """

    version: str = ""
    champion: str = ""
    num: int = 0
    total: float = 0.0
    total_squares: float = 0.0

    @property
    def mean(self) -> float:
        """Mean difference; 0 without an example."""
        return self.total / self.num if self.num else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of a difference."""
        return math.sqrt(max(0.0, self.total_squares / self.num - self.mean**2)) if self.num else 0.0


@dataclass(frozen=True, kw_only=True)
class RolloutState:
    """A model's routes, and what was counted under them.

    Args:
        champion: Version that answers, None before the first deployment.
        canary: Version that answers `canary_share_pct` of the requests.
        canary_share_pct: Per cent, in steps of 0.1.
        shadow: Version that scores copies and answers nobody.
        revision: Number of the last change of the routes.
        age_s: Seconds since then, or since the server started if that was later.
        counters: (version, role) -> counters; roles are champion, canary, shadow.
        loaded: Versions that are loaded and can score.
        labels: What late labels say of the challenger; None: nothing yet.
    """

    champion: str | None = None
    canary: str | None = None
    canary_share_pct: float = 0.0
    shadow: str | None = None
    revision: int = 0
    age_s: float = 0.0
    counters: Mapping[tuple[str, str], Counters]
    loaded: frozenset[str] = frozenset()
    labels: LabelEvidence | None = None

    def of(self, version: str | None, role: str) -> Counters:
        """Return the counters of a version in a role; zeros when it took no request."""
        return self.counters.get((version or "", role), Counters())


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A verdict, why, and the values that it rests on (JSON-able)."""

    verdict: Verdict
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any]

    @property
    def is_final(self) -> bool:
        """Whether waiting longer cannot change it."""
        return self.verdict is not Verdict.KEEP_WAITING

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {"verdict": str(self.verdict), "reasons": list(self.reasons), "evidence": dict(self.evidence)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Decision:
        """Return the decision that `to_json` described."""
        return cls(verdict=Verdict(raw["verdict"]), reasons=tuple(raw["reasons"]), evidence=raw["evidence"])


def decide(
    *,
    challenger: Counters,
    champion: Counters,
    rollout: RolloutSpec,
    stage: Stage,
    elapsed_s: float,
    labels: LabelEvidence | None = None,
) -> Decision:
    """Compare a challenger with the champion under the same routes.

    It passes when for each measure the evidence against "worse by the margin" reaches 1 / `missed_regression_prob`: a
    version that is worse in one of them passes all of them with at most that probability. It fails when for one measure
    that is not shown to be within its margin the evidence against "no worse" reaches the number of stages and measures
    over `false_rollback_prob`, which so holds for the whole rollout. Counts that contradict themselves are an error.
    With too little evidence it waits, and after `step_timeout_s` is inconclusive, unless the spec says to hold the
    traffic where it is.
    """
    problems = [
        f"{name}: {text}"
        for name, of in (("challenger", challenger), ("champion", champion))
        for text in problems_of(of)
    ]
    if problems:
        return Decision(
            verdict=Verdict.ERROR, reasons=tuple(problems), evidence=_evidence(challenger, champion, elapsed_s)
        )
    measures = measures_of(challenger=challenger, champion=champion, rollout=rollout, stage=stage, labels=labels)
    fail_at, pass_at = thresholds(rollout, num_measures=len(measures))
    evidence = _evidence(challenger, champion, elapsed_s) | {
        "fail_at": round(fail_at, 3),
        "pass_at": round(pass_at, 3),
        "measures": {measure.name: measure.to_json() for measure in measures},
    }
    failed = [measure for measure in measures if measure.worse >= fail_at and measure.not_worse < pass_at]
    open_ones = [measure for measure in measures if measure.not_worse < pass_at and measure.is_needed]
    if failed:
        reasons = tuple(f"{measure.name}: {measure.found}" for measure in failed)
        return Decision(verdict=Verdict.FAIL, reasons=reasons, evidence=evidence)
    if not open_ones:
        return Decision(verdict=Verdict.PASS, reasons=("every measure is within its margin",), evidence=evidence)
    missing = tuple(f"{m.name}: {m.found}, {_progress(m, pass_at):.0%} of the evidence for a pass" for m in open_ones)
    if elapsed_s < rollout.step_timeout_s or rollout.on_inconclusive == "hold":
        return Decision(verdict=Verdict.KEEP_WAITING, reasons=missing, evidence=evidence)
    late = f"after {elapsed_s:.0f} s of {rollout.step_timeout_s:.0f} s"
    return Decision(verdict=Verdict.INCONCLUSIVE, reasons=tuple(f"{m} {late}" for m in missing), evidence=evidence)


def decide_stage(
    state: RolloutState,
    *,
    version: str,
    stage: Stage,
    share_pct: float,
    rollout: RolloutSpec,
    before: RolloutState | None = None,
) -> Decision:
    """Return the decision on a version at its stage of a rollout, from the target's state alone.

    Who looked earlier may pass what it saw as `before`: counts that fell since then are an error.

    A version that is the champion already has passed. One that is no longer routed as the stage expects fails: a
    person or another run took it out, and its counters say nothing about this stage.
    """
    if state.champion == version:
        return Decision(verdict=Verdict.PASS, reasons=(f"version {version} is the champion",), evidence={})
    routed = state.shadow if stage == "shadow" else state.canary
    if routed != version or (stage == "canary" and state.canary_share_pct < share_pct):
        got = f"champion {state.champion}, canary {state.canary} at {state.canary_share_pct:g} %, shadow {state.shadow}"
        wanted = f"version {version} must be the {stage}" + (f" at {share_pct:g} %" if stage == "canary" else "")
        return Decision(verdict=Verdict.FAIL, reasons=(f"routes changed: {wanted}; got {got}",), evidence={})
    fallen = runs_backwards(before, state) if before else []
    if fallen:
        return Decision(verdict=Verdict.ERROR, reasons=tuple(fallen), evidence={})
    known = state.labels
    return decide(
        challenger=state.of(version, stage),
        champion=state.of(state.champion, "champion"),
        rollout=rollout,
        stage=stage,
        elapsed_s=state.age_s,
        labels=known if known and (known.version, known.champion) == (version, state.champion) else None,
    )


def thresholds(rollout: RolloutSpec, *, num_measures: int) -> tuple[float, float]:
    """Return the evidence, as natural logarithms, at which one measure fails a stage and at which it passes.

    The probability of a false roll-back is shared out to all stages and their measures (the union bound). That of a
    miss is not: a version that is worse must pass the measure that it is worse in.
    """
    num_looks = rollout.num_stages * num_measures
    return math.log(num_looks / rollout.false_rollback_prob), math.log(1 / rollout.missed_regression_prob)


def measures_of(
    *,
    challenger: Counters,
    champion: Counters,
    rollout: RolloutSpec,
    stage: Stage,
    labels: LabelEvidence | None = None,
) -> list[Measure]:
    """Return what a stage is decided by."""
    found = [
        error_increase(challenger=challenger, champion=champion, margin=rollout.max_error_increase_frac),
        error_limit(challenger=challenger, limit=rollout.max_error_frac),
        latency(challenger=challenger, champion=champion, rollout=rollout),
    ]
    if stage == "shadow":
        limit, margin = rollout.max_disagreement_frac, rollout.disagreement_margin_frac
        found.append(disagreement(shadow=challenger, limit=limit, margin=margin))
    if rollout.labels != "ignored":
        is_needed = rollout.labels == "required"
        found.append(loss(labels=labels or LabelEvidence(), margin=rollout.max_loss_increase, is_needed=is_needed))
    return found


def sum_labels(found: Iterable[LabelEvidence]) -> LabelEvidence | None:
    """Return the sum of what several partitions say of the same two versions; None of no partition."""
    said = list(found)
    if not said:
        return None
    num, total = sum(each.num for each in said), sum(each.total for each in said)
    return replace(said[0], num=num, total=total, total_squares=sum(each.total_squares for each in said))


def _progress(measure: Measure, pass_at: float) -> float:
    return max(0.0, min(1.0, measure.not_worse / pass_at))


def _evidence(challenger: Counters, champion: Counters, elapsed_s: float) -> dict[str, Any]:
    counters = {name: asdict(counted) for name, counted in (("challenger", challenger), ("champion", champion))}
    return {"elapsed_s": round(elapsed_s, 3), "counters": counters}
