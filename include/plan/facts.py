"""What is known about a model now; None or empty where whoever knows it does not answer, which `silent` then says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from include.progress.state import ModelProgress
    from include.retraining.decision import History
    from include.rollout.decision import RolloutState
    from include.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The version that serves.

    Args:
        version: Its number.
        since: When it took over, as the ledger has it, UTC.
        window_end: Last partition that it was trained on, as the registry has it.
    """

    version: str
    since: datetime | None = None
    window_end: str | None = None


@dataclass(frozen=True, kw_only=True)
class PastDecision:
    """The newest decision on whether to train."""

    partition: str
    verdict: str
    reason: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class PastTraining:
    """What one finished training took.

    Args:
        window_end: Last partition of its window.
        num_rows: Rows that it trained and validated on.
        num_epochs: Passes over them.
        seconds: Wall time of the trainer's last start, all its steps.
        device: Where the network was fitted, for example cpu or cuda.
    """

    window_end: str
    num_rows: int
    num_epochs: int
    seconds: float
    device: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about a model.

    Args:
        spec: The model.
        progress: How far its partitions have come.
        history: Which partitions are published and were sent to training; None: not known.
        champion: The version that serves; None: none, or not known.
        is_champion_known: Whether the registry answered.
        decision: The newest decision; None before the first.
        trainings: Finished trainings, oldest first; None: not known.
        routes: The router's state; None: the model server is silent.
        silent: What did not answer, in words.
    """

    spec: ModelSpec
    progress: ModelProgress
    history: History | None = None
    champion: Champion | None = None
    is_champion_known: bool = False
    decision: PastDecision | None = None
    trainings: tuple[PastTraining, ...] | None = None
    routes: RolloutState | None = None
    silent: tuple[str, ...] = ()

    @property
    def requests_per_s(self) -> float | None:
        """Rate of answered requests since the routes last changed; None without a server or a request."""
        routes = self.routes
        if routes is None or routes.age_s <= 0:
            return None
        answered = (routes.of(routes.champion, "champion"), routes.of(routes.canary, "canary"))
        rate = sum(counted.requests for counted in answered) / routes.age_s
        return rate or None
