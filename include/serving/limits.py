"""How many requests a server takes: a rate, and a number that may wait; more are refused at once, not queued."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import OverloadError

if TYPE_CHECKING:
    from collections.abc import Callable

BURST_S = 1.0
"""A server that had nothing to do takes so many seconds' worth of requests at once."""


class RateError(OverloadError):
    """Callers send faster than the server was told to take; `retry_after_s` says when there is room."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(kw_only=True)
class Admission:
    """Lets requests in, or not; used by one thread only, the event loop's.

    The rate is a token bucket in the form of the generic cell rate algorithm (ITU-T I.371, virtual scheduling), which
    needs one number: the time at which the bucket would be full again.

    Args:
        max_per_s: Most requests per second, None: as many as come.
        max_pending: Most requests that wait or are scored at a time.
        now_s: Clock, in seconds.
    """

    max_per_s: float | None = None
    max_pending: int = 1024
    now_s: Callable[[], float] = time.monotonic
    num_pending: int = 0
    _full_at_s: float = -math.inf

    def take(self) -> None:
        """Take one token.

        Raises:
            RateError: There is none.
        """
        if self.max_per_s is None:
            return
        now_s = self.now_s()
        full_at_s = max(self._full_at_s, now_s) + 1.0 / self.max_per_s
        # At rates below one per second the bucket holds one token.
        wait_s = full_at_s - now_s - max(BURST_S, 1.0 / self.max_per_s)
        if wait_s > 1e-9:  # noqa: PLR2004 - rounding
            raise RateError(
                f"model server takes {self.max_per_s:g} requests per second; got more. Nothing was scored. Send it "
                f"again in {wait_s:.2f} s.",
                retry_after_s=wait_s,
            )
        self._full_at_s = full_at_s

    def enter(self) -> None:
        """Let one request wait for its answer; `leave` must follow.

        Raises:
            OverloadError: Too many wait already.
        """
        if self.num_pending >= self.max_pending:
            raise OverloadError(
                f"model server lets {self.max_pending} requests wait; got more. Nothing was scored. Send it again "
                "in a second, or to another server."
            )
        self.num_pending += 1

    def leave(self) -> None:
        """Let go of a request that was answered."""
        self.num_pending -= 1
