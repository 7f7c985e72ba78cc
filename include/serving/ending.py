"""Serves until a signal comes, and then ends so that no inference that was accepted stays without its answer."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger(__name__)

DRAIN_S = 10.0
"""Seconds that inferences in hand may still take after a signal, with the rest of their bodies."""
QUIET_S = 0.2
"""A drain is over when no inference came for so long: callers that keep a connection send on at once."""
POLL_S = 0.02
HANG_UP_S = 1.0
"""Seconds that all other calls may still take then; aiohttp grants them twice, before and after it cancels them."""
CLOSE_S = 12.0
"""Seconds that workers, log and spans may take to end."""
WORK_S = 2.0
"""Seconds that workers may take to finish what they have begun when the server ends, and again its shadows."""
LOG_S = 7.0
"""Seconds that the log may take then; what is in no file waits in the journal."""
END_S = DRAIN_S + 2 * HANG_UP_S + CLOSE_S
"""Most seconds from a signal to the end, whatever hangs."""
KEEP_ALIVE_S = 75.0
"""Seconds that a connection without requests stays open."""


@dataclass(kw_only=True)
class InHand:
    """Inferences from their heads to their answers; used by one thread only, the event loop's.

    Args:
        num_begun: How many came.
        num_ended: How many of them were answered, or given up by their callers.
        is_ending: Whether each answer is the last one of its connection.
    """

    num_begun: int = 0
    num_ended: int = 0
    is_ending: bool = False

    @property
    def num(self) -> int:
        """How many wait for their answers."""
        return self.num_begun - self.num_ended

    async def drain(self, *, timeout_s: float = DRAIN_S) -> None:
        """Make each answer the last one of its connection, and wait until none is owed any more, or time is over."""
        loop = asyncio.get_running_loop()
        self.is_ending = True
        now_s = quiet_since_s = loop.time()
        until_s, num_seen = now_s + timeout_s, self.num_begun
        while now_s < until_s and now_s - quiet_since_s < QUIET_S:
            await asyncio.sleep(POLL_S)
            now_s = loop.time()
            if self.num or self.num_begun != num_seen:
                quiet_since_s, num_seen = now_s, self.num_begun
        if self.num:
            _LOG.error(
                "%d inferences were not done %g s after the signal to end; they get no answer", self.num, timeout_s
            )


IN_HAND = web.AppKey("in_hand", InHand)


async def serve(app: web.Application, *, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; then refuse connections, answer what is in hand, and close the application.

    Connections without a request hold nothing up. All of it takes at most `END_S` seconds from the signal.

    Raises:
        OSError: The port cannot be had.
    """
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEP_ALIVE_S, shutdown_timeout=HANG_UP_S)
    try:
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        say(f"model server listens on {site.name}")
        await told.wait()
        await site.stop()
        await app[IN_HAND].drain()  # before aiohttp hangs up: it discards the rest of a body that is under way
    finally:
        await runner.cleanup()


def finish_within(finish: Callable[[], object], *, timeout_s: float) -> None:
    """Call what has no limit of its own, and wait so long for it; what hangs is left behind."""
    thread = threading.Thread(target=finish, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        _LOG.error("what was begun must be done within %g s when the server ends; it is left behind", timeout_s)
