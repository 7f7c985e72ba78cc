"""What the supervisor tells of a deployment's processes: `state.json`, replaced as a whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from include.runtime import processes
from include.runtime.secrets import write_private

if TYPE_CHECKING:
    from pathlib import Path

    from include.runtime.home import Home

SUPERVISOR = "supervisor"
"""Name of the supervisor's own process file and log."""


@dataclass(frozen=True, kw_only=True)
class ProcessState:
    """One process of a deployment.

    Args:
        name: The service.
        phase: `waiting` (for a server that it needs), `starting`, `ready`, `restarting` (it ended and will be started
            again), or `stopped`.
        pid: Its process id; None while there is no process.
        since: When the process was started, ISO 8601, UTC.
        restarts: How often it was started again.
        failures: Ends in a row that count against it; after each the pause doubles.
        last_exit: How it ended the last time; None if it never did.
        next_try: When it will be started, ISO 8601, UTC; None while it runs.
    """

    name: str
    phase: str
    pid: int | None = None
    since: str | None = None
    restarts: int = 0
    failures: int = 0
    last_exit: str | None = None
    next_try: str | None = None

    def facts(self) -> ProcessState:
        """Return the state without what changes by itself while time passes."""
        return replace(self, next_try=None)


@dataclass(frozen=True, kw_only=True)
class SupervisorState:
    """All processes of a deployment.

    Args:
        told_at: When this was written, ISO 8601, UTC.
        processes: In the order in which they are started.
        is_supervised: Whether the supervisor runs; without one, nothing is started again.
    """

    told_at: str
    processes: tuple[ProcessState, ...]
    is_supervised: bool = True


def write_state(home: Home, state: SupervisorState) -> None:
    """Replace the deployment's state."""
    write_private(_path(home), json.dumps(asdict(state), indent=1))


def read_state(home: Home) -> SupervisorState | None:
    """Return what the supervisor last told, corrected by what runs at this moment; None if nothing was ever started."""
    try:
        raw = json.loads(_path(home).read_text())
    except FileNotFoundError:
        return None
    running = {name: process.pid for name, process in processes.running(home.pids).items()}
    is_supervised = SUPERVISOR in running
    told = [ProcessState(**item) for item in raw["processes"]]
    return SupervisorState(
        told_at=raw["told_at"],
        processes=tuple(_corrected(state, pid=running.get(state.name), is_supervised=is_supervised) for state in told),
        is_supervised=is_supervised,
    )


def forget_state(home: Home) -> None:
    """Forget what an earlier supervisor told."""
    _path(home).unlink(missing_ok=True)


def _corrected(state: ProcessState, *, pid: int | None, is_supervised: bool) -> ProcessState:
    if state.pid == pid and (pid or is_supervised):
        return state
    if pid:
        return replace(state, phase="starting", pid=pid, since=None, next_try=None)
    phase = "restarting" if is_supervised else "stopped"
    return replace(state, phase=phase, pid=None, since=None, next_try=None)


def _path(home: Home) -> Path:
    return home.root / "state.json"
