"""Where a roll-back goes to: routes and ledger say it, and once they may not, what the same run decided before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import NotFoundError
from include.rollout.history import champion_of, is_rolled_out, replaced_by

if TYPE_CHECKING:
    from include.rollout.decision import RolloutState
    from include.rollout.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class WayBack:
    """What a roll-back does.

    Args:
        to: Version that gets all requests.
        left: Version that had them.
    """

    to: str
    left: str | None


def find_way_back(
    ledger: Ledger, model: str, *, state: RolloutState, wanted: str | None, actor: str, key: str
) -> WayBack:
    """Return where a roll-back goes from the version that the routes name; one run goes to one version.

    Routes that changed mostly say so themselves. Where they do not (the ledger's champion gets the requests back, or a
    version that is being rolled out does, whose promotion would look the same), it is recorded before they change.

    Args:
        ledger: The ledger.
        model: The model's name.
        state: The routes.
        wanted: Version that a person named; None: the champion before.
        actor: Who goes back.
        key: Key of the record, of this run.

    Raises:
        NotFoundError: There was no champion before, and there is no canary or shadow to take out.
    """
    decided = None if wanted else ledger.find(key)
    if decided is not None:
        return WayBack(to=decided.subject, left=decided.evidence["previous"])
    champion, routed = champion_of(ledger, model), state.champion
    to = wanted or _choose(ledger, model, champion=champion, state=state)
    left = champion if routed == to else routed
    if not wanted and (to == champion or is_rolled_out(ledger, model, to)):
        ledger.append(model=model, kind="way_back", subject=to, evidence={"previous": left}, actor=actor, key=key)
    return WayBack(to=to, left=left)


def _choose(ledger: Ledger, model: str, *, champion: str | None, state: RolloutState) -> str:
    routed, before = state.champion, replaced_by(ledger, model, champion)
    is_back = routed == before and not is_rolled_out(ledger, model, str(before))
    if champion is not None and routed not in (None, champion) and not is_back:
        return champion  # the ledger does not know that the version serves: its promotion was cut off
    if before is None and champion is not None and (state.canary or state.shadow):
        return champion  # the first one: all that there is to leave is the version that is being rolled out
    if before is None:
        raise NotFoundError(
            f"model {model!r} must have had a champion before v{champion} to go back to; got none in the ledger. The "
            "routes stay as they were. Trigger with the parameter `version`, or deploy another one."
        )
    return before
