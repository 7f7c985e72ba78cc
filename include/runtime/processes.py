"""Start processes that outlive this one, find them again, and stop exactly those.

Each is the leader of its own session, so whatever it starts is found by the session even when the leader has died. A
process file names the leader and the moment the kernel started it: a reused process id is never mistaken for ours.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from include.runtime.secrets import write_private

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class ManagedProcess:
    """A process that this deployment started."""

    name: str
    pid: int
    started_ticks: int
    boot_id: str

    @property
    def is_running(self) -> bool:
        """Whether the leader itself is alive, and is the process that was started."""
        return self.boot_id == _boot_id() and _started_ticks(self.pid) == self.started_ticks

    def members(self) -> list[int]:
        """Return the process ids of the leader's session that are alive, the leader's own included."""
        if self.boot_id != _boot_id() or _started_ticks(self.pid) not in (self.started_ticks, None):
            return []  # the id was reused, so the session had ended
        return [pid for pid in _all_pids() if _session(pid) == self.pid and self._is_older_than(pid)]

    def _is_older_than(self, pid: int) -> bool:
        return (_started_ticks(pid) or 0) >= self.started_ticks


def start(
    name: str, command: Sequence[str], *, env: Mapping[str, str], pids: Path, log: Path, niceness: int = 0
) -> ManagedProcess:
    """Start a command detached, with its output appended to `log`, and write its process file."""
    # Not subprocess.Popen: it insists on being waited for, and these outlive us. coreutils' env changes the folder.
    wrapped = ["env", f"--chdir={pids.parent}", *(["nice", "-n", str(niceness)] if niceness else []), *command]
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    pid = os.posix_spawnp("env", wrapped, dict(env), file_actions=files, setsid=True)
    process = ManagedProcess(name=name, pid=pid, started_ticks=_started_ticks(pid) or 0, boot_id=_boot_id())
    write_private(pids / f"{name}.json", json.dumps(asdict(process)))
    return process


def find(pids: Path) -> list[ManagedProcess]:
    """Return the processes that this deployment's files name, whether they are alive or not."""
    return [ManagedProcess(**json.loads(path.read_text())) for path in sorted(pids.glob("*.json"))]


def ask_to_stop(process: ManagedProcess, *, how: signal.Signals = signal.SIGTERM) -> None:
    """Send the leader a signal and do not wait."""
    if process.is_running:
        _signal(process.pid, how)


def stop(process: ManagedProcess, *, pids: Path, grace_s: float = 8.0, how: signal.Signals = signal.SIGTERM) -> None:
    """Ask the leader to stop, then end what is left of its session, then remove its process file."""
    if process.is_running:
        ask_to_stop(process, how=how)
        _reap(process.pid)
        deadline = time.monotonic() + grace_s
        while process.is_running and time.monotonic() < deadline:
            _reap(process.pid)
            time.sleep(_POLL_S)
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 2
        for pid in process.members():
            _signal(pid, signal_number)
        while process.members() and time.monotonic() < deadline:
            _reap(process.pid)
            time.sleep(_POLL_S)
    (pids / f"{process.name}.json").unlink(missing_ok=True)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _reap(pid: int) -> None:
    """Collect the exit status when the process is our child, so that it does not stay as a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _boot_id() -> str:
    """Return what differs after each start of the machine: process ids and start times begin anew then (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the command name (proc(5)); None for no process or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields


def _started_ticks(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _session(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[3]) if fields else None
