"""What the supervisor knows of one service."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from include.runtime.restarts import Health
from include.runtime.state import SUPERVISOR, ProcessState

if TYPE_CHECKING:
    from datetime import datetime

    from include.runtime.processes import ManagedProcess
    from include.runtime.services import Service

_LOG = logging.getLogger(SUPERVISOR)


@dataclass(kw_only=True)
class Watched:
    """One service and what has become of its process.

    Args:
        service: What is started.
        process: The process; None while there is none.
        ready_at_s: When a check first found it working, monotonic; None before.
        heard_at_s: When a check last found it working, or nobody could say; at first, when it was started.
        num_restarts: Starts after the first.
        num_failures: Ends in a row that count against it.
        next_try_s: When it may be started, monotonic.
        last_exit: How it ended the last time; None if it never did.
    """

    service: Service
    process: ManagedProcess | None = None
    ready_at_s: float | None = None
    heard_at_s: float = 0.0
    num_restarts: int = 0
    num_failures: int = 0
    next_try_s: float = 0.0
    last_exit: str | None = None
    was_started: bool = False

    def hear(self, process: ManagedProcess, health: Health, *, now_s: float) -> None:
        """Take in what a check said; about an earlier process, it is nothing to this one."""
        if process != self.process or health is Health.SILENT:
            return
        if health is Health.OK and self.ready_at_s is None:
            self.ready_at_s = now_s
            _LOG.info("%s is ready, pid %d", self.service.name, process.pid)
        self.heard_at_s = now_s

    def state(self, *, now_s: float, now: datetime) -> ProcessState:
        """Return what is told to others."""
        if self.process:
            phase = "starting" if self.ready_at_s is None else "ready"
        else:
            phase = "restarting" if self.was_started else "waiting"
        pause_s = self.next_try_s - now_s
        return ProcessState(
            name=self.service.name,
            phase=phase,
            pid=self.process.pid if self.process else None,
            since=self.process.started_at.isoformat() if self.process else None,
            restarts=self.num_restarts,
            failures=self.num_failures,
            last_exit=self.last_exit,
            next_try=(now + timedelta(seconds=max(0.0, pause_s))).isoformat() if not self.process else None,
        )
