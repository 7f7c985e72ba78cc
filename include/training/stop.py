"""When the trainer ends early: somebody asks it to, or nobody looks after it any more."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from include.training.exit_codes import ExitCode

if TYPE_CHECKING:
    from types import FrameType

    from include.training.claim import Claim
    from include.training.local_run import LocalRun

GRACE_S = 20.0
"""Seconds to save a checkpoint after being asked to stop."""

LEASE_S = 600.0
"""Seconds that a trainer goes on when no task follows it. Airflow notices a lost worker after its heartbeat timeout,
300 s by default, and then a retry comes for the trainer; with twice that its work is not thrown away for a worker's
death, and nothing trains for longer that nobody wants."""

_LOOK_S = 1.0


@dataclass(kw_only=True)
class Stop:
    """Whether the trainer was asked to end, and by what.

    Args:
        run: Where the tasks that follow it are seen; None in a pod, which ends by its cluster's signal alone.
        lease_s: Seconds that it goes on when nobody follows it.
        claim: Its word that it trains the job, as soon as it has given it.
        grace_s: Seconds to save a checkpoint after being asked to stop.
    """

    run: LocalRun | None = None
    lease_s: float = LEASE_S
    claim: Claim | None = None
    grace_s: float = GRACE_S
    why: str = ""
    _asked: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> bool:
        """Return whether the trainer has to end."""
        return self._asked.is_set()

    def listen(self) -> None:
        """Answer signals from now on, and look for followers."""
        signal.signal(signal.SIGTERM, self._on_signal)
        if self.run is not None:
            signal.signal(signal.SIGINT, self._on_signal)  # Ctrl-C reaches the whole group of a task in a terminal
            threading.Thread(target=self._look_for_followers, args=(self.run,), daemon=True).start()

    def ask(self, why: str) -> None:
        """Let the trainer save a checkpoint and end; when it does not within its grace, it ends without one."""
        if self._asked.is_set():
            return
        self.why = why
        self._asked.set()
        if self.run is not None:
            threading.Thread(target=_end_after_grace, args=(self.run, self.grace_s), daemon=True).start()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.run is not None:
            # Airflow sends SIGTERM to the task's whole process group, and SIGKILL 5 s later: too early for a large
            # checkpoint. Outside of the group this process has all of its grace.
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
        self.ask(signal.Signals(number).name)

    def _look_for_followers(self, run: LocalRun) -> None:
        seen_s = time.monotonic()
        while not self._asked.wait(min(_LOOK_S, self.lease_s / 4)):
            if run.is_followed():
                seen_s = time.monotonic()
            elif time.monotonic() - seen_s > self.lease_s:
                self.ask(f"no task has followed it for {self.lease_s:g} s")
            elif self.claim and self.claim.is_lost():
                self.ask("no task follows it, and a trainer on another machine has taken over")


def _end_after_grace(run: LocalRun, grace_s: float) -> None:
    time.sleep(grace_s)
    run.leave(ExitCode.INTERRUPTED)
    os._exit(ExitCode.INTERRUPTED)  # it hangs in a library, and nobody else may be left to end it
