"""What the ledger says about a model's champions, about one run's rollout, and about who served at a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from include.rollout.decision import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from include.rollout.ledger import Entry, Ledger

FULL_PCT = 100.0
ORIGIN = ("deploy", "bootstrap", "promote", "canary_step", "shadow")
"""Kinds whose evidence says where a version comes from."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What one version did at a moment.

    Args:
        version: The version.
        role: champion, canary or shadow.
        share_pct: Share of the requests that it answered, in per cent.
        decided: Entry that gave it this role.
        origin: Newest evidence of where it comes from: run, data, commit, parameters; empty when none was recorded.
    """

    version: str
    role: Literal["champion", "canary", "shadow"]
    share_pct: float
    decided: Entry
    origin: Mapping[str, Any]


def serving_at(ledger: Ledger, model: str, when: datetime) -> tuple[Served, ...]:
    """Return who served a model at a moment, the champion first; nobody before the first version."""
    position = ledger.position_at(when)
    takeover = ledger.takeover(model, until=position)
    if takeover is None:
        return ()
    champion = str(takeover.evidence["champion"])
    rival = _rival_at(ledger, model, after=takeover.seq, until=position)
    share_pct = rival.evidence["share_pct"] if rival and rival.kind == "canary_step" else 0.0
    found = [_served(ledger, champion, "champion", FULL_PCT - share_pct, takeover, until=position)]
    if rival is not None:
        role: Literal["canary", "shadow"] = "canary" if rival.kind == "canary_step" else "shadow"
        found.append(_served(ledger, rival.subject, role, share_pct, rival, until=position))
    return tuple(found)


def champion_of(ledger: Ledger, model: str) -> str | None:
    """Return the version that took over last, None before the first."""
    found = ledger.takeover(model)
    return found.evidence["champion"] if found else None


def takeover_of(ledger: Ledger, model: str, version: str) -> Entry | None:
    """Return the newest entry by which a version was promoted; of one that never was, the first that went back to it.

    Later entries that went back to it name as `previous` a version that was left, which is no way back.
    """
    promoted = ledger.newest(model, "bootstrap", "promote", subject=version)
    if promoted is not None:
        return promoted
    installed = (
        e for e in ledger.entries(model, "roll_back") if e.subject == version and "withdrawn" not in e.evidence
    )
    return next(installed, None)


def former_champion(ledger: Ledger, model: str) -> str | None:
    """Return the version that the present champion replaced when it first took over, None if it was the first.

    Going back twice goes back two versions, never forward again to the one that was just left.
    """
    return replaced_by(ledger, model, champion_of(ledger, model))


def replaced_by(ledger: Ledger, model: str, champion: str | None) -> str | None:
    """Return the version that a champion replaced, None if it was the first or never was one."""
    takeover = takeover_of(ledger, model, champion) if champion else None
    return takeover.evidence["previous"] if takeover else None


def begun_of(ledger: Ledger, model: str, *, run_key: str, version: str) -> Entry | None:
    """Return the entry by which a run began to roll out a version, None before that."""
    begun = ledger.newest(model, "deploy", subject=version)
    return begun if begun is not None and begun.key.startswith(f"{run_key}:") else None


def approver_of(ledger: Ledger, model: str, *, run_key: str, version: str) -> str:
    """Return who approved a run's rollout of a version; empty: nobody was asked, or it has not begun."""
    begun = begun_of(ledger, model, run_key=run_key, version=version)
    return str(begun.evidence["approved_by"]) if begun else ""


def was_taken_out(ledger: Ledger, begun: Entry) -> bool:
    """Return whether, since its rollout began, a version was taken out, or any version took over."""
    ends = (ledger.newest(begun.model, "roll_back", subject=begun.subject), ledger.takeover(begun.model))
    return any(end is not None and end.seq > begun.seq for end in ends)


def is_rolled_out(ledger: Ledger, model: str, version: str) -> bool:
    """Return whether the newest rollout is that of a version, which was neither taken out nor ended by a takeover."""
    begun = ledger.newest(model, "deploy")
    return begun is not None and begun.subject == version and not was_taken_out(ledger, begun)


def failed_stages(ledger: Ledger, model: str, *, run_key: str, version: str) -> list[Entry]:
    """Return the entries by which stages of one run did not pass for a version, oldest first."""
    stages = [entry for kind in ("shadow", "canary_step") for entry in ledger.entries(model, kind)]
    return [
        entry
        for entry in sorted(stages, key=lambda entry: entry.seq)
        if entry.key.startswith(f"{run_key}:")
        and entry.subject == version
        and entry.evidence.get("verdict") not in (None, Verdict.PASS)
    ]


def _rival_at(ledger: Ledger, model: str, *, after: int, until: int) -> Entry | None:
    """Return the entry by which a challenger got its shadow or share, unless it was taken out since.

    A rollout that begins takes out what an earlier one left.
    """
    begun = ledger.newest(model, "deploy", until=until)
    after = max(after, begun.seq if begun else 0)
    steps = (_newest_start(ledger, model, kind, after=after, until=until) for kind in ("shadow", "canary_step"))
    newest = max((step for step in steps if step), key=lambda step: step.seq, default=None)
    taken_out = ledger.newest(model, "roll_back", subject=newest.subject, until=until) if newest else None
    return None if newest is None or (taken_out and taken_out.seq > newest.seq) else newest


def _newest_start(ledger: Ledger, model: str, kind: str, *, after: int, until: int) -> Entry | None:
    found = ledger.newest(model, kind, until=until)
    while found is not None and found.seq > after and found.evidence.get("state") != "started":
        found = ledger.newest(model, kind, until=found.seq - 1)  # how a stage ended changes nobody's share
    return found if found is not None and found.seq > after else None


def _served(
    ledger: Ledger,
    version: str,
    role: Literal["champion", "canary", "shadow"],
    share_pct: float,
    decided: Entry,
    *,
    until: int,
) -> Served:
    told = ledger.newest(decided.model, *ORIGIN, subject=version, until=until)
    while told is not None and "digest" not in told.evidence:
        told = ledger.newest(decided.model, *ORIGIN, subject=version, until=told.seq - 1)
    return Served(
        version=version, role=role, share_pct=share_pct, decided=decided, origin=told.evidence if told else {}
    )
