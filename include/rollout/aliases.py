"""MLflow's aliases of a model, as a rollout leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.registry.models import CHALLENGER, CHAMPION, delete_alias, get_alias, set_alias
from include.rollout.history import champion_of

if TYPE_CHECKING:
    from include.rollout.ledger import Ledger

_NUM_LOOKS = 5


def align_champion(tracking_uri: str, *, ledger: Ledger, model: str) -> None:
    """Point `champion` at the ledger's champion.

    Of several that do so at once, whoever sets it last looks at the ledger once more, so it ends there.
    """
    for _ in range(_NUM_LOOKS):
        champion = champion_of(ledger, model)
        found = get_alias(tracking_uri, model=model, alias=CHAMPION)
        if champion is None or (found is not None and found.version == champion):
            return
        set_alias(tracking_uri, model=model, alias=CHAMPION, version=champion)


def drop_challenger(tracking_uri: str, *, model: str, version: str) -> None:
    """Remove `challenger` if it points at a version."""
    found = get_alias(tracking_uri, model=model, alias=CHALLENGER)
    if found is not None and found.version == version:
        delete_alias(tracking_uri, model=model, alias=CHALLENGER)
