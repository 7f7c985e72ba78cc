"""When things happen in a scripted cluster: a clock, and what is due at which second of it."""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock(Protocol):
    """Says how late it is in the cluster."""

    def now(self) -> float:
        """Return the cluster's time, in seconds since 1970."""
        ...


@dataclass
class FastClock:
    """Runs like a real clock, `speed` times as fast."""

    speed: float = 1.0
    _began: float = field(default_factory=time.time)
    _began_monotonic: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Return the cluster's time, in seconds since 1970."""
        return self._began + (time.monotonic() - self._began_monotonic) * self.speed


@dataclass
class SteppedClock:
    """Stands still until it is set."""

    at: float

    def now(self) -> float:
        """Return the cluster's time, in seconds since 1970."""
        return self.at


@dataclass(kw_only=True)
class Agenda:
    """What is due when; each thing sees the very second that it was due at, however late it is done."""

    clock: Clock
    at: float = field(init=False)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        """Begin now."""
        self.at = self.clock.now()

    def after(self, delay_s: float, do: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._due, (self.at + max(0.0, delay_s), next(self._order), do))

    @property
    def next_at(self) -> float | None:
        """Return when the next thing is due."""
        return self._due[0][0] if self._due else None

    def run(self) -> bool:
        """Do all that is due; return whether there was anything."""
        now, found = self.clock.now(), False
        while self._due and self._due[0][0] <= now:
            at, _, do = heapq.heappop(self._due)
            self.at, found = max(self.at, at), True
            do()
        self.at = max(self.at, now)
        return found


def timestamp(at: float, *, fine: bool = False) -> str:
    """Return a time as Kubernetes writes it; `fine`: with a fraction, as in logs."""
    moment = datetime.fromtimestamp(at, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f000Z" if fine else "%Y-%m-%dT%H:%M:%SZ")


def seconds(written: str) -> float:
    """Return a written time in seconds since 1970."""
    return datetime.fromisoformat(written).timestamp()
