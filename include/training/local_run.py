"""One job's trainer on this machine: who trains it, who looks after it, and what it has said.

Both are locks that the kernel releases with the process that holds them, so no clock and no clean-up decides: the
trainer holds one as long as it lives, and every task that follows it shares the other one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import SetupError
from include.runtime import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.runtime.processes import ManagedProcess

_TRAINER = "trainer"
_NAME_CHARS = 16
_KEPT_S = 14 * 24 * 3600.0
_UPGRADE_TRIES = 10
_UPGRADE_PAUSE_S = 0.005


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """The private folder of a job's trainer.

    Args:
        folder: On a disk of this machine, even when the job lies in an object store.
    """

    folder: Path

    @classmethod
    def of(cls, job_uri: str) -> LocalRun:
        """Return the run of a job, below the machine's folder for temporary files.

        Raises:
            SetupError: Another user has put something there.
        """
        base = Path(_temporary(), f"tradewind-trainers-{os.getuid()}")
        with contextlib.suppress(FileExistsError):
            base.mkdir(mode=0o700)
        owned = base.lstat()
        if owned.st_uid != os.getuid() or owned.st_mode & 0o077 or base.is_symlink():
            raise SetupError(
                f"{base} must be a folder that only user {os.getuid()} may enter; got one of user {owned.st_uid} with "
                f"mode {owned.st_mode & 0o777:o}. Nothing was started. Remove it, or set TMPDIR."
            )
        folder = base / hashlib.sha256(job_uri.encode()).hexdigest()[:_NAME_CHARS]
        folder.mkdir(mode=0o700, exist_ok=True)
        found = cls(folder=folder)
        found.touch()
        for other in base.iterdir():
            if other != folder:
                cls(folder=other).forget()
        return found

    def touch(self) -> None:
        """Keep the folder from being taken for one of long ago."""
        os.utime(self.folder)

    def forget(self) -> None:
        """Delete what an ended trainer of weeks ago left behind."""
        with contextlib.suppress(OSError):
            if time.time() - self.folder.stat().st_mtime > _KEPT_S and (lock := self.claim()) is not None:
                shutil.rmtree(self.folder, ignore_errors=True)
                os.close(lock)

    @property
    def log(self) -> Path:
        """What the trainer prints."""
        return self.folder / "log"

    def claim(self) -> int | None:
        """Return the lock that only one trainer may hold, None while one lives; pass it on and close it."""
        handle = os.open(self.folder / "trainer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        for name in ("log", "heard", "exit_code", f"{_TRAINER}.json"):
            (self.folder / name).unlink(missing_ok=True)
        return handle

    def enter(self, pid: int) -> ManagedProcess:
        """Write down which process is the trainer: its id and the moment the kernel started it."""
        return processes.record(_TRAINER, pid, pids=self.folder)

    def trainer(self) -> ManagedProcess | None:
        """Return the process that trains or has trained, None before it has entered."""
        found = [process for process in processes.find(self.folder) if process.name == _TRAINER]
        return found[0] if found else None

    def leave(self, exit_code: int) -> None:
        """Write down how this process ends, for a task that is not its parent; a full disk must not change it."""
        with contextlib.suppress(OSError):
            (self.folder / "exit_code").write_text(str(exit_code))

    def exit_code(self) -> int | None:
        """Return how the last trainer ended by its own word, None if it could not say."""
        try:
            return int((self.folder / "exit_code").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def heard(self, position: int | None = None) -> int:
        """Return up to where a task has passed the log on, in bytes; with a position, keep that."""
        path = self.folder / "heard"
        with contextlib.suppress(OSError, ValueError):
            if position is None:
                return int(path.read_text())
            with path.open("r+b" if path.exists() else "wb") as file:
                file.write(b"%020d" % position)  # over the old one, which a SIGKILL must not leave empty
        return position or 0

    @contextlib.contextmanager
    def followed(self) -> Iterator[Follower]:
        """Look after the trainer until the block ends, or until this process does."""
        handle = os.open(self.folder / "followers.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield Follower(handle)
        finally:
            os.close(handle)

    def is_followed(self) -> bool:
        """Return whether any task looks after the trainer now."""
        handle = os.open(self.folder / "followers.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False


@dataclass(frozen=True)
class Follower:
    """A task that follows a trainer: its share of the lock."""

    handle: int

    def is_alone(self) -> bool:
        """Return whether no other task follows the trainer; if so, none can begin to before this one has left.

        A signal handler may call it. The trainer looks at the lock every second, for microseconds: hence the tries.
        """
        for _ in range(_UPGRADE_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            time.sleep(_UPGRADE_PAUSE_S)
        return False


def _temporary() -> str:
    """Return the folder for temporary files; not another one while its disk is full, where no lock would be seen."""
    named = os.environ.get("TMPDIR", "")
    return named if named and Path(named).is_dir() else tempfile.gettempdir()
