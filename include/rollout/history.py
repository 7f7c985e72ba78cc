"""What the ledger says about a model's champions and about one run's rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.rollout.decision import Verdict
from include.rollout.ledger import names_champion

if TYPE_CHECKING:
    from include.rollout.ledger import Entry, Ledger


def champion_of(ledger: Ledger, model: str) -> str | None:
    """Return the version that took over last, None before the first."""
    found = [entry for entry in ledger.entries(model) if names_champion(entry)]
    return found[-1].evidence["champion"] if found else None


def takeover_of(ledger: Ledger, model: str, version: str) -> Entry | None:
    """Return the newest entry by which a version took over from another one, or as the first."""
    found = [entry for entry in ledger.entries(model) if entry.kind in ("bootstrap", "promote")]
    return next((entry for entry in reversed(found) if entry.subject == version), None)


def former_champion(ledger: Ledger, model: str) -> str | None:
    """Return the version that the present champion replaced when it was promoted, None if it was the first.

    Going back twice goes back two versions, never forward again to the one that was just left.
    """
    champion = champion_of(ledger, model)
    takeover = takeover_of(ledger, model, champion) if champion else None
    return takeover.evidence["previous"] if takeover else None


def find_entry(ledger: Ledger, model: str, key: str) -> Entry | None:
    """Return the entry with a key, if it was recorded."""
    return next((entry for entry in ledger.entries(model) if entry.key == key), None)


def failed_stages(ledger: Ledger, model: str, *, run_key: str, version: str) -> list[Entry]:
    """Return the entries by which stages of one run did not pass for a version, oldest first."""
    return [
        entry
        for entry in ledger.entries(model)
        if entry.key.startswith(f"{run_key}:")
        and entry.subject == version
        and entry.evidence.get("verdict") in (Verdict.FAIL, Verdict.INCONCLUSIVE)
    ]
