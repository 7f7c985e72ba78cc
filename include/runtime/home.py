"""The folder that holds everything of one deployment on this machine: data, secrets, logs, process ids."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import SetupError
from include.lake.storage import Storage
from include.registry.signing import Signer
from include.runtime.secrets import SIGNING_KEY, TOKEN_FILE, TRUSTED_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = Path(__file__).resolve().parents[2]
DEFAULT_HOME = REPO / ".tradewind" / "live"
MAX_SOCKET_BYTES = 107
"""Longest path of a Unix socket (Linux, unix(7)); past it PostgreSQL would move its socket to a shared folder."""
MIN_FREE_BYTES = 2 * 1024**3


@dataclass(frozen=True, kw_only=True)
class Home:
    """Paths below one deployment's root; `prepare` makes them."""

    root: Path

    @property
    def data(self) -> Path:
        """Root of the lake, the landing folder and the reports."""
        return self.root / "data"

    @property
    def secrets(self) -> Path:
        """Folder of generated passwords, keys and tokens; mode 0700."""
        return self.root / "secrets"

    @property
    def model_server_token(self) -> Path:
        """File with the admin token of the model server."""
        return self.secrets / TOKEN_FILE

    @property
    def signer(self) -> Signer:
        """What signs packages when they are registered."""
        return Signer(key_file=self.secrets / SIGNING_KEY)

    @property
    def trusted_keys(self) -> Path:
        """File with the public keys whose signatures the model server takes."""
        return self.secrets / TRUSTED_KEYS

    @property
    def logs(self) -> Path:
        """One log file a process, and Airflow's task logs."""
        return self.root / "logs"

    @property
    def pids(self) -> Path:
        """One file a started process."""
        return self.root / "pids"

    @property
    def airflow(self) -> Path:
        """Airflow's own home; holds nothing that has to be kept."""
        return self.root / "airflow"

    @property
    def postgres(self) -> Path:
        """The embedded PostgreSQL's folder: `data` and `run` (its socket)."""
        return self.root / "pg"

    @property
    def mlflow(self) -> Path:
        """MLflow's artifacts."""
        return self.root / "mlflow"

    @property
    def serving(self) -> Path:
        """The model server's routes and loaded versions."""
        return self.root / "serving"

    @property
    def routes(self) -> Path:
        """The routes as the model server keeps them."""
        return self.serving / "router.json"

    @property
    def ledger(self) -> Path:
        """The ledger's SQLite file."""
        return self.root / "ledger" / "ledger.sqlite"

    @property
    def storage(self) -> Storage:
        """The local storage that the lake connection names."""
        return Storage(root=str(self.data))

    @property
    def restoring(self) -> Path:
        """What a restore unpacks into; as long as it is there, the deployment is not whole."""
        return self.root / "restoring"

    def prepare(self, *, for_restore: bool = False) -> None:
        """Make the folders, private to their user, and check what would fail later.

        Raises:
            SetupError: The path is too long, the disk is nearly full, the root belongs to somebody else, or a restore
                into it was cut off.
        """
        if self.restoring.exists() and not for_restore:
            raise SetupError(
                f"{self.root} must be whole; got one that a restore has not finished. Nothing was started. Run "
                "`./tradewind restore` again, with the same file."
            )
        socket_bytes = len(os.fsencode(self.postgres / "run" / ".s.PGSQL.5432"))
        if socket_bytes > MAX_SOCKET_BYTES:
            raise SetupError(
                f"PostgreSQL's socket path may have {MAX_SOCKET_BYTES} bytes; got {socket_bytes} below {self.root}. "
                "Nothing was started. Clone into a shorter path, or set TRADEWIND_HOME to one."
            )
        self._check_disk()
        self.root.mkdir(parents=True, exist_ok=True)
        if self.root.stat().st_uid != os.getuid():
            raise SetupError(
                f"{self.root} must belong to user {os.getuid()}; got user {self.root.stat().st_uid}. "
                "Nothing was started. Set TRADEWIND_HOME to a folder of your own."
            )
        self.root.chmod(0o711)  # traversable, not listable: PostgreSQL runs as another user when started by root
        private = (self.data, self.secrets, self.logs, self.pids, self.airflow, self.mlflow, self.serving)
        for folder in (*private, self.ledger.parent):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)  # one that was copied here may have been open to others

    def require_made(self) -> None:
        """Refuse a folder in which there is no deployment, or half of one.

        Raises:
            SetupError: So it is.
        """
        if not (self.secrets / "secrets.json").exists() or self.restoring.exists():
            raise SetupError(
                f"{self.root} must hold a deployment that `make up` or a restore has made; got none, or half of one. "
                "Nothing was changed. Name its folder with --home."
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others from starting and stopping this deployment meanwhile; a killed holder lets go by itself.

        Raises:
            SetupError: Somebody else is at it.
        """
        with (self.root / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SetupError(
                    f"only one command at a time may start or stop {self.root}; got another one at work. "
                    "Nothing was changed. Wait for it."
                ) from error
            yield

    def _check_disk(self) -> None:
        existing = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        free_bytes = shutil.disk_usage(existing).free
        if free_bytes < MIN_FREE_BYTES:
            raise SetupError(
                f"{self.root} needs {MIN_FREE_BYTES >> 20} MiB free; got {free_bytes >> 20} MiB. Nothing was started. "
                "Free some space, or set TRADEWIND_HOME to another disk."
            )
