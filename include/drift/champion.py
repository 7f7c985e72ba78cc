from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.drift.reference import Reference


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The version that serves now, as the monitor needs it.

    Args:
        version: Its number in the registry.
        reference: What it saw in training.
        validation_log_loss: Its own, on the newest rows of its window, nats; None if its package does not say.
        window_start: First partition of its training window.
        window_end: Last one.
    """

    version: str
    reference: Reference
    validation_log_loss: float | None
    window_start: str | None
    window_end: str | None
