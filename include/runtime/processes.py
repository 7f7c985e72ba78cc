"""Start processes that outlive this one, find them again, and stop exactly those.

Each is the leader of its own session, so whatever it starts is found by the session even when the leader has died. A
process file names the leader and the moment the kernel started it: a reused process id is never mistaken for ours.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from include.runtime.secrets import write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

DATABASE = "postgres"
"""The process that all others need: it is stopped last."""
_POLL_S = 0.05
_KILLED_S = 2.0
"""Seconds in which a process that got a signal it cannot refuse is gone."""
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True, kw_only=True)
class ManagedProcess:
    """A process that this deployment started, and how many seconds it may take to end when it is asked to."""

    name: str
    pid: int
    started_ticks: int
    boot_id: str
    grace_s: float = 8.0

    @property
    def is_running(self) -> bool:
        """Whether the leader itself is alive, and is the process that was started."""
        return self.boot_id == _boot_id() and _started_ticks(self.pid) == self.started_ticks

    @property
    def started_at(self) -> datetime:
        """When the kernel started it, to a second."""
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        seconds = int(booted.split()[1]) + self.started_ticks / os.sysconf("SC_CLK_TCK")
        return datetime.fromtimestamp(seconds, UTC)

    def members(self) -> list[int]:
        """Return the process ids of the leader's session that are alive, the leader's own included."""
        if self.boot_id != _boot_id() or _started_ticks(self.pid) not in (self.started_ticks, None):
            return []  # the id was reused, so the session had ended
        return [pid for pid in _all_pids() if _session(pid) == self.pid and self._is_older_than(pid)]

    def _is_older_than(self, pid: int) -> bool:
        return (_started_ticks(pid) or 0) >= self.started_ticks


@dataclass
class _Ending:
    """The signal that ends this process when a start is through, and whether one is under way."""

    number: int | None = None
    is_held_off: bool = False


_ending = _Ending()


def start(
    name: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    pids: Path,
    log: Path,
    niceness: int = 0,
    grace_s: float = ManagedProcess.grace_s,
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
    with _end_held_off():
        pid = os.posix_spawnp("env", wrapped, dict(env), file_actions=files, setsid=True)
        try:
            return record(name, pid, pids=pids, grace_s=grace_s)
        except OSError:
            _signal(pid, signal.SIGKILL)  # what no file names could never be stopped
            raise


def wait(process: ManagedProcess) -> int:
    """Wait for a child of this process to end; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])


def record(name: str, pid: int, *, pids: Path, grace_s: float = ManagedProcess.grace_s) -> ManagedProcess:
    """Write the process file of a running process."""
    process = ManagedProcess(
        name=name, pid=pid, started_ticks=_started_ticks(pid) or 0, boot_id=_boot_id(), grace_s=grace_s
    )
    write_private(pids / f"{name}.json", json.dumps(asdict(process)))
    return process


def find(pids: Path) -> list[ManagedProcess]:
    """Return the processes that this deployment's files name, whether they are alive or not."""
    return [ManagedProcess(**json.loads(path.read_text())) for path in sorted(pids.glob("*.json"))]


def running(pids: Path) -> dict[str, ManagedProcess]:
    """Return those that are alive, by name."""
    return {process.name: process for process in find(pids) if process.is_running}


def ask_to_stop(process: ManagedProcess, *, how: signal.Signals = signal.SIGTERM) -> None:
    """Send the leader a signal and do not wait."""
    if process.is_running:
        _signal(process.pid, how)


def stop(
    process: ManagedProcess, *, pids: Path, how: signal.Signals = signal.SIGTERM, asked_at_s: float | None = None
) -> None:
    """Ask the leader to stop, then end what is left of its session, then remove its process file.

    Its grace counts from `asked_at_s` of the monotonic clock where it was asked before.
    """
    if process.is_running:
        ask_to_stop(process, how=how)
        _reap(process.pid)
        deadline = (time.monotonic() if asked_at_s is None else asked_at_s) + process.grace_s
        while process.is_running and time.monotonic() < deadline:
            _reap(process.pid)
            time.sleep(_POLL_S)
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        _end(process.members, signal_number)
    _reap(process.pid)
    (pids / f"{process.name}.json").unlink(missing_ok=True)


def stop_all(found: Iterable[ManagedProcess], *, pids: Path, say: Callable[[str], None]) -> int:
    """Stop processes and what they left behind, the database last; return how many of them had something alive."""
    found = list(found)
    num_running = sum(bool(process.members()) for process in found)
    servers = [process for process in found if process.name != DATABASE]
    asked_at_s = time.monotonic()
    for process in servers:
        say(f"stopping {process.name}")
        ask_to_stop(process)
    for process in servers:
        stop(process, pids=pids, asked_at_s=asked_at_s)
    for process in found:
        if process.name == DATABASE:
            say("stopping PostgreSQL")
            stop(process, pids=pids, how=signal.SIGINT)  # a fast, clean shutdown
    return num_running


def kill(process: ManagedProcess) -> None:
    """End a process and its whole session at once: none of them may report or write anything any more."""
    _end(process.members, signal.SIGKILL)


def kill_in(folder: Path) -> None:
    """End at once every process that works in a folder, such as a dead PostgreSQL's, which leave its session."""
    _end(lambda: [pid for pid in _all_pids() if _stat(pid) and _working_folder(pid) == folder], signal.SIGKILL)


def exit_on_signals() -> None:
    """Let SIGTERM, SIGHUP and Ctrl-C end this process the way an error does, so that it stops what it has started.

    Only the first of them: a second Ctrl-C must not keep it from stopping the rest.
    """
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

    def end(number: int, _frame: object) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        if not _ending.is_held_off:
            raise SystemExit(128 + number)
        _ending.number = number

    for number in numbers:
        signal.signal(number, end)


@contextmanager
def _end_held_off() -> Iterator[None]:
    """Let a signal that ends this process wait: what was started meanwhile must have its file before."""
    _ending.is_held_off = True
    try:
        yield
    finally:
        _ending.is_held_off = False
        if _ending.number is not None:
            number, _ending.number = _ending.number, None
            raise SystemExit(128 + number)


def adopt_orphans() -> None:
    """Become the parent of what this process's descendants leave behind, so that `reap` collects it (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> dict[int, int]:
    """Collect all children that have ended: process id -> exit code, or minus the signal that ended it."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def _end(find_pids: Callable[[], Sequence[int]], number: signal.Signals) -> None:
    """Send a signal to all that are found, and wait a moment for them to end."""
    pids = find_pids()
    deadline = time.monotonic() + _KILLED_S
    for pid in pids:
        _signal(pid, number)
    while pids and time.monotonic() < deadline:
        for pid in pids:
            _reap(pid)
        time.sleep(_POLL_S)
        pids = find_pids()


def _working_folder(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


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
