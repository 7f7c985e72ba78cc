"""A backup of one deployment, taken while it works.

What names other things is read before what it names: Airflow's record of finished tasks first, then the ledger, aliases
and routes, then packages and training sets, then tables, then landed files. So whatever the archive names is in it, and
the archive holds a state that a kill could have left: a task that Airflow does not know to be finished runs again, and
every task may run again (DESIGN: write, verify, publish).
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include import __version__
from include.backup.archive import write_archive
from include.backup.capture import FILES, Capture, copy_sqlite
from include.errors import CorruptArtifactError, SetupError
from include.rollout.ledger import Ledger
from include.runtime.databases import DATABASES, databases_running

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from include.backup.archive import ArchiveWriter
    from include.runtime.databases import Database
    from include.runtime.home import Home
    from include.runtime.services import Deployment

FORMAT = 1
"""Version of the archive's layout."""

CONTENTS = "contents.json"
DUMPS = "databases"
_PACKAGES = ("apache-airflow-core", "mlflow", "feast", "deltalake")
_NOT_KEPT = frozenset({"pids", "state.json", "airflow", "pg", "lock"})
"""Of this machine and this run only; PostgreSQL's files are in the dumps."""
_LAST = ("feast", "lake", "predictions", "landing")
"""Of the data, what others name; in the order in which it is read."""


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What was written."""

    path: Path
    num_files: int
    num_bytes: int
    num_tables: int
    num_ledger_entries: int


def create_backup(deployment: Deployment, path: Path, *, say: Callable[[str], None]) -> Backup:
    """Write everything of a deployment into one archive, which only its user can read: it holds the secrets.

    The deployment may run. The archive is verified before it gets its name; an interrupted backup leaves nothing.

    Args:
        deployment: What to back up.
        path: The archive's file; an existing one is kept.
        say: Told what is being read.

    Raises:
        SetupError: The file exists, or there is no deployment.
        ServiceError: A database or table cannot be read.
        CorruptArtifactError: The ledger's chain is broken, or a routed version has no package.
    """
    if path.exists():
        raise SetupError(f"backup {path} must be a new file; got an existing one. It is unchanged. Name another.")
    home = deployment.home
    home.require_made()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        databases_running(deployment) as databases,
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".tradewind-backup-") as scratch,
        write_archive(path, header=_header(home, databases)) as writer,
    ):
        capture = Capture(root=home.root, writer=writer, scratch=Path(scratch))
        ledger, routes = _add_what_names(capture, home, databases, say=say)
        _add_what_is_named(capture, home, say=say)
        _require_packages(writer, home, routes)
        contents = {"tables": capture.tables, "ledger": ledger}
        writer.add_bytes(CONTENTS, json.dumps(contents, indent=1).encode())
        say("verifying the archive")
    return Backup(
        path=path,
        num_files=len(writer.sums),
        num_bytes=path.stat().st_size,
        num_tables=len(capture.tables),
        num_ledger_entries=ledger["entries"],
    )


def _header(home: Home, databases: Mapping[str, Database]) -> dict[str, Any]:
    versions = {name: database.schema_version() for name, database in databases.items()}
    return {
        "format": FORMAT,
        "release": __version__,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "home": str(home.root),
        "schemas": versions,
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _add_what_names(
    capture: Capture, home: Home, databases: Mapping[str, Database], *, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Add Airflow's database, the ledger, MLflow's database and the routes; return ledger and routes."""
    ledger: dict[str, Any] = {"entries": 0, "head": None}
    for name in DATABASES:
        say(f"reading database {name}")
        dump = capture.scratch / f"{name}.dump"
        databases[name].dump(dump)
        capture.writer.add_file(f"{DUMPS}/{dump.name}", dump)
        dump.unlink()
        if name == DATABASES[0] and home.ledger.exists():
            ledger = _add_ledger(capture, home)
    routes: dict[str, Any] = {"models": {}}
    if home.routes.exists():
        content = home.routes.read_bytes()
        capture.writer.add_bytes(f"{FILES}/{home.routes.relative_to(home.root).as_posix()}", content)
        routes = json.loads(content)
    return ledger, routes


def _add_ledger(capture: Capture, home: Home) -> dict[str, Any]:
    copy = capture.scratch / "ledger.sqlite"
    copy_sqlite(home.ledger, copy)
    ledger = Ledger(path=copy)
    num_entries = ledger.verify()
    capture.writer.add_file(f"{FILES}/{home.ledger.relative_to(home.root).as_posix()}", copy)
    return {"entries": num_entries, "head": ledger.head() if num_entries else None}


def _add_what_is_named(capture: Capture, home: Home, *, say: Callable[[str], None]) -> None:
    done = {*_NOT_KEPT, home.serving.name, home.ledger.parent.name, home.data.name}
    for path in sorted(home.root.iterdir()):
        if path.name not in done:
            say(f"reading {path.name}")
            capture.add(path)
    folders = [path.name for path in sorted(home.data.iterdir())] if home.data.exists() else []
    for name in (*(name for name in folders if name not in _LAST), *(name for name in _LAST if name in folders)):
        say(f"reading {name}")
        capture.add(home.data / name)


def _require_packages(writer: ArchiveWriter, home: Home, routes: Mapping[str, Any]) -> None:
    """Check that each version that the routes name has its package in the archive."""
    for model, state in routes["models"].items():
        for version, package in state["versions"].items():
            folder = Path(package["uri"])
            if not folder.is_relative_to(home.root):
                continue
            if f"{FILES}/{folder.relative_to(home.root).as_posix()}/package.json" not in writer.sums:
                raise CorruptArtifactError(
                    f"version {version} of {model!r}, which the model server has loaded, must have its package at "
                    f"{folder}; got none. No backup was written. Deploy another version, or start the backup again."
                )
