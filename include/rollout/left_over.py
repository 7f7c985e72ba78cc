"""What is still routed or loaded of rollouts that are over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.rollout.ledger import Entry, Ledger
    from include.rollout.target import DeploymentTarget


def withdraw_older(target: DeploymentTarget, ledger: Ledger, *, turn: Entry) -> None:
    """Take out what got a share or a shadow between a turn's change of the routes and its entry in the ledger.

    Whoever records a share after that entry takes it back itself. A version whose rollout began after it stays.

    Args:
        target: Where the model is served.
        ledger: The ledger.
        turn: The entry, by which a version took over, or was taken out: then it is about that version only.
    """
    now = target.read(model=turn.model)
    withdrawn = turn.evidence.get("withdrawn")
    for version in {now.canary, now.shadow} - {None}:
        begun = ledger.newest(turn.model, "deploy", subject=version)
        if withdrawn in (None, version) and begun is not None and begun.seq < turn.seq:
            target.withdraw(model=turn.model, version=str(version))


def remove_all_but(target: DeploymentTarget, *kept: str | None, model: str) -> None:
    """Unload the versions of a model that are not kept."""
    for version in sorted(target.read(model=model).loaded - set(kept)):
        target.remove(model=model, version=version)
