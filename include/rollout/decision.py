"""Whether a challenger may take more traffic: a pure function of what was counted and of the spec."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from include.rollout.latency import quantile_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.spec import RolloutSpec

Stage = Literal["shadow", "canary"]


class Verdict(StrEnum):
    """What to do next. Only `keep_waiting` is not final."""

    KEEP_WAITING = "keep_waiting"
    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What one version did in one role since the routes last changed: sums that any target can tell.

    Args:
        requests: Requests that it scored or failed to score; a caller's own mistakes are not counted.
        errors: Those that it failed to score.
        latency_counts: Scored requests by `LATENCY_BOUNDS_MS` of their encoding and inference, and one more for those
            beyond; empty: none.
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
    """

    champion: str | None = None
    canary: str | None = None
    canary_share_pct: float = 0.0
    shadow: str | None = None
    revision: int = 0
    age_s: float = 0.0
    counters: Mapping[tuple[str, str], Counters]
    loaded: frozenset[str] = frozenset()

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
    *, challenger: Counters, champion: Counters, rollout: RolloutSpec, min_requests: int, elapsed_s: float
) -> Decision:
    """Compare a challenger with the champion under the same routes.

    It passes only when both took `min_requests` and every measure is within its limit (a value at the limit is). It
    fails as soon as its errors exceed what is allowed for `min_requests`, or, once there is enough evidence, when a
    measure is above its limit. Without enough evidence it waits, and after `step_timeout_s` is inconclusive, unless the
    spec says to hold the traffic where it is.
    """
    needed = max(1, min_requests)
    evidence = _evidence(challenger=challenger, champion=champion, needed=needed, elapsed_s=elapsed_s)
    failed = _too_many_errors(challenger, rollout=rollout, needed=needed)
    missing = _missing(challenger=challenger, champion=champion, needed=needed)
    if not failed and not missing:
        failed = _worse(challenger=challenger, champion=champion, rollout=rollout)
    if failed:
        return Decision(verdict=Verdict.FAIL, reasons=tuple(failed), evidence=evidence)
    if not missing:
        return Decision(verdict=Verdict.PASS, reasons=("every measure is within its limit",), evidence=evidence)
    if elapsed_s < rollout.step_timeout_s or rollout.on_inconclusive == "hold":
        return Decision(verdict=Verdict.KEEP_WAITING, reasons=tuple(missing), evidence=evidence)
    late = f"after {elapsed_s:.0f} s of {rollout.step_timeout_s:.0f} s"
    return Decision(verdict=Verdict.INCONCLUSIVE, reasons=tuple(f"{m} {late}" for m in missing), evidence=evidence)


def decide_stage(
    state: RolloutState, *, version: str, stage: Stage, share_pct: float, rollout: RolloutSpec
) -> Decision:
    """Return the decision on a version at its stage of a rollout, from the router's state alone.

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
    return decide(
        challenger=state.of(version, stage),
        champion=state.of(state.champion, "champion"),
        rollout=rollout,
        min_requests=rollout.shadow_requests if stage == "shadow" else rollout.min_requests_per_step,
        elapsed_s=state.age_s,
    )


def _too_many_errors(challenger: Counters, *, rollout: RolloutSpec, needed: int) -> list[str]:
    requests = max(challenger.requests, needed)
    if challenger.errors <= rollout.max_error_frac * requests:
        return []
    frac = challenger.errors / requests
    return [f"error_frac {frac:.4g} > {rollout.max_error_frac:g} ({challenger.errors} of {requests} requests)"]


def _missing(*, challenger: Counters, champion: Counters, needed: int) -> list[str]:
    missing = []
    for name, counters in (("challenger", challenger), ("champion", champion)):
        if counters.requests < needed:
            missing.append(f"{name} took {counters.requests} of {needed} requests")
        elif not sum(counters.latency_counts):
            missing.append(f"{name} has no prediction")
    return missing


def _worse(*, challenger: Counters, champion: Counters, rollout: RolloutSpec) -> list[str]:
    """Return the measures of a challenger with enough evidence that are above their limits."""
    worse = []
    latency_ms = quantile_ms(challenger.latency_counts, 0.95) or math.inf
    yardstick_ms = quantile_ms(champion.latency_counts, 0.95) or math.inf
    limit_ms = max(rollout.latency_floor_ms, rollout.max_latency_ratio * yardstick_ms)
    if latency_ms > limit_ms:
        worse.append(f"latency p95 {latency_ms:.3g} ms > {limit_ms:.3g} ms (champion {yardstick_ms:.3g} ms)")
    differing = challenger.num_disagreements / max(1, challenger.num_pairs)
    if not differing <= rollout.max_disagreement_frac:
        worse.append(f"disagreement_frac {differing:.4g} > {rollout.max_disagreement_frac:g}")
    return worse


def _evidence(*, challenger: Counters, champion: Counters, needed: int, elapsed_s: float) -> dict[str, Any]:
    counters = {name: asdict(counted) for name, counted in (("challenger", challenger), ("champion", champion))}
    return {"min_requests": needed, "elapsed_s": round(elapsed_s, 3), "counters": counters}
