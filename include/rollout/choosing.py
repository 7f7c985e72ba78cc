"""Which version a run rolls out, chosen once: whatever an alias points at later, no other one is deployed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.registry.models import get_version
from include.rollout.aliases import drop_challenger
from include.rollout.deployment import knows_less
from include.rollout.history import champion_of

if TYPE_CHECKING:
    from include.registry.models import ModelVersion
    from include.rollout.ledger import Entry, Ledger
    from include.rollout.stages import Rollout

_NOT_RECORDED = ("the ledger has no gate of its training",)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A version, and what a person should know who approves of it.

    Args:
        version: The version.
        champion: Version that it would replace, None for a first one.
        window: First and last partition of its training, in words; empty when it has no such tags.
        gates: What each gate said of it.
    """

    version: str
    champion: str | None
    window: str
    gates: tuple[str, ...]


def choose_version(rollout: Rollout, version: str | None) -> Choice:
    """Return the version named, or the one that the alias `challenger` points at now.

    Raises:
        NotFoundError: There is none.
        ServiceError: MLflow does not answer.
    """
    found = rollout.challenger(version)
    ends = [found.tags[name] for name in ("window_start", "window_end") if name in found.tags]
    return Choice(
        version=found.version,
        champion=champion_of(rollout.ledger, rollout.model),
        window=" to ".join(ends),
        gates=_gates(rollout.ledger, found),
    )


def supersede(rollout: Rollout, version: str) -> Entry | None:
    """Record that a version comes too late, for a champion that knows newer data has taken over; None: it does not.

    Raises:
        NotFoundError: It, or the champion, is not registered.
        ServiceError: MLflow does not answer; a retry finds what was recorded.
    """
    champion = champion_of(rollout.ledger, rollout.model)
    if champion in (None, version):
        return None
    late, served = (
        get_version(rollout.tracking_uri, model=rollout.model, version=str(name)) for name in (version, champion)
    )
    if not knows_less(late, served):
        return None
    ends = {"window_end": late.tags.get("window_end", ""), "champion_window_end": served.tags["window_end"]}
    entry = rollout.ledger.append(
        model=rollout.model,
        kind="superseded",
        subject=version,
        evidence={"by": champion, **ends},
        actor=rollout.actor,
        key=f"{rollout.run_key}:superseded:{version}",
    )
    drop_challenger(rollout.tracking_uri, model=rollout.model, version=version)
    return entry


def _gates(ledger: Ledger, version: ModelVersion) -> tuple[str, ...]:
    judged = ledger.newest(version.name, "gate", subject=version.tags.get("job_key", ""))
    if judged is None:
        return _NOT_RECORDED
    return tuple(f"{gate['name']} {gate['verdict']}: {gate['reason']}" for gate in judged.evidence["gates"])
