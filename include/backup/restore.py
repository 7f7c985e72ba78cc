"""A deployment from a backup: into an empty home, whole or not at all.

The archive is verified before the home is touched. It is unpacked into `restoring` below the home, from where its parts
are moved to their places; as long as that folder is there, the deployment does not start, and the next restore begins
anew.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from include import __version__
from include.backup.archive import read_header, verify_archive
from include.backup.capture import FILES
from include.backup.create import CONTENTS, DUMPS, FORMAT
from include.backup.delta import pin_table
from include.backup.relocate import PLAIN_PATH, relocate_database, relocate_files
from include.errors import CorruptArtifactError, SetupError
from include.rollout.ledger import Ledger
from include.runtime import processes
from include.runtime.databases import databases_of, databases_running
from include.runtime.home import Home
from include.runtime.secrets import Secrets, load_secrets
from include.runtime.services import Deployment, Ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a backup held."""

    made_at: datetime
    release: str
    old_home: str
    num_tables: int
    num_ledger_entries: int


def restore_backup(archive: Path, root: Path, *, say: Callable[[str], None]) -> Restored:
    """Make a deployment's home from a backup; `up` then starts it. Killed anywhere, the next call begins anew.

    With TRADEWIND_DATABASE_URL set, its databases are filled; they must be empty.

    Args:
        archive: What `create_backup` wrote.
        root: The home: an empty folder, or none. It may be another one than the backup's.
        say: Told what is being done.

    Raises:
        SetupError: The home or another server's database is not empty, the release is newer, or the paths cannot be
            rewritten.
        CorruptArtifactError: The archive is damaged; the message names the file.
        ServiceError: A database cannot be filled.
    """
    say("verifying the archive")
    header = _require_restorable(archive, root)
    home = Home(root=root)
    _require_empty_databases(home)
    home.prepare(for_restore=True)
    with home.held():
        _clear(home)
        home.prepare(for_restore=True)
        say("unpacking")
        verify_archive(archive, into=home.restoring)
        _move(home)
        deployment = Deployment(home=home, secrets=load_secrets(home.secrets), ports=Ports())
        _fill_databases(deployment, old=header["home"], say=say)
        relocate_files(home, old=header["home"])
        contents = json.loads((home.restoring / CONTENTS).read_text())
        _verify(home, contents)
        shutil.rmtree(home.restoring)
    return Restored(
        made_at=datetime.fromisoformat(header["made_at"]),
        release=header["release"],
        old_home=header["home"],
        num_tables=len(contents["tables"]),
        num_ledger_entries=contents["ledger"]["entries"],
    )


def _require_restorable(archive: Path, root: Path) -> dict[str, Any]:
    """Return the header of an archive that is whole, of this release or an older one, and fits the home."""
    if not archive.is_file():
        raise SetupError(f"backup {archive} must be a file; got none. Nothing was restored. Name another.")
    header = read_header(archive)
    if header["format"] > FORMAT or _numbers(header["release"]) > _numbers(__version__):
        raise SetupError(
            f"backup {archive} must come from release {__version__} or an older one; got {header['release']}. Nothing "
            "was restored. Check out that release."
        )
    if header["home"] != str(root) and not (PLAIN_PATH.fullmatch(header["home"]) and PLAIN_PATH.fullmatch(str(root))):
        raise SetupError(
            f"a backup of {header['home']!r} can move to another folder when both paths consist of letters, digits and "
            f"./_-; got {str(root)!r}. Nothing was restored. Name another folder, or the old one."
        )
    own = {"lock", Home(root=root).restoring.name}
    others = [path.name for path in root.iterdir() if path.name not in own] if root.exists() else []
    if others and not Home(root=root).restoring.exists():
        raise SetupError(
            f"{root} must be empty to be restored into; got {', '.join(sorted(others)[:5])}. It is unchanged. Name "
            "another folder with --home, or move this one away."
        )
    verify_archive(archive)
    return header


def _require_empty_databases(home: Home) -> None:
    """Refuse to fill another server's databases in which there is something; the embedded ones are made anew."""
    deployment = Deployment(home=home, secrets=Secrets(), ports=Ports())
    if not deployment.uses_embedded_postgres:
        for database in databases_of(deployment).values():
            database.require_empty()


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".")[:3])


def _clear(home: Home) -> None:
    """Make the home empty but for the sign that it is not whole; what a killed restore started is stopped."""
    home.restoring.mkdir(exist_ok=True, mode=0o700)
    processes.stop_all(processes.find(home.pids), pids=home.pids, say=lambda _: None)
    for path in home.root.iterdir():
        if path.name not in ("lock", home.restoring.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in home.restoring.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _move(home: Home) -> None:
    for path in (home.restoring / FILES).iterdir():
        target = home.root / path.name
        if target.is_dir():
            target.rmdir()  # it was just made, empty
        path.rename(target)
    home.prepare(for_restore=True)


def _fill_databases(deployment: Deployment, *, old: str, say: Callable[[str], None]) -> None:
    home = deployment.home
    with databases_running(deployment, is_held=True) as databases:
        for name, database in databases.items():
            say(f"filling database {name}")
            database.fill(home.restoring / DUMPS / f"{name}.dump")
            if old != str(home.root):
                relocate_database(database, old=old, new=str(home.root))


def _verify(home: Home, contents: Mapping[str, Any]) -> None:
    ledger = contents["ledger"]
    if ledger["entries"]:
        Ledger(path=home.ledger).verify(expected_head=ledger["head"])
    for folder, version in contents["tables"].items():
        pinned = pin_table(home.root / folder)
        if pinned is None or pinned.version != version:
            raise CorruptArtifactError(
                f"table {folder} must have version {version} as in the backup; got {pinned and pinned.version}. The "
                "home is not whole and does not start. Use another backup."
            )
