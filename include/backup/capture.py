"""Copies a deployment's files into an archive while its processes go on writing them.

Files are written aside and renamed, or only grow; what is not is copied by its own rules: SQLite files by SQLite's
online backup, Delta tables by version.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from include.backup.delta import LOG, pin_table
from include.errors import ServiceError

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.archive import ArchiveWriter

FILES = "home"
"""Folder of the archive that holds the files of the deployment's home."""

_SQLITE_MAGIC = b"SQLite format 3\0"
_SQLITE_ASIDE = ("-wal", "-shm", "-journal")
_BUSY_TIMEOUT_S = 60.0


@dataclass(kw_only=True)
class Capture:
    """Adds parts of a home to an archive.

    Args:
        root: The home.
        writer: The archive.
        scratch: Folder for copies, on a disk with room for the largest SQLite file.
        tables: Folder of each Delta table, relative to the home -> the version that was copied.
    """

    root: Path
    writer: ArchiveWriter
    scratch: Path
    tables: dict[str, int] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        """Add a file, or all files of a folder; what is being written aside, or vanishes meanwhile, is left out.

        Raises:
            ServiceError: A file of a table vanished.
        """
        if path.is_dir():
            if (path / LOG).is_dir():
                self._add_table(path)
                return
            for child in _children(path):
                self.add(child)
        elif path.is_file() and not _is_aside(path):
            if _is_sqlite(path):
                self._add_sqlite(path)
            else:
                self.writer.add_file(self._name(path), path)

    def _name(self, path: Path) -> str:
        return f"{FILES}/{path.relative_to(self.root).as_posix()}"

    def _add_sqlite(self, path: Path) -> None:
        copy = self.scratch / "copy.sqlite"
        copy_sqlite(path, copy)
        self.writer.add_file(self._name(path), copy)
        copy.unlink()

    def _add_table(self, folder: Path) -> None:
        pinned = pin_table(folder)
        if pinned is None:
            return
        for file in pinned.files:
            if not self.writer.add_file(self._name(folder / file), folder / file):
                raise ServiceError(
                    f"table {folder} must keep its files while it is copied; got none at {file}. No backup was "
                    "written. Start it again."
                )
        self.tables[folder.relative_to(self.root).as_posix()] = pinned.version


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:  # removed by retention, which keeps all that something names
        return []


def copy_sqlite(path: Path, copy: Path) -> None:
    """Copy a SQLite file as of one moment, while others write to it.

    Raises:
        ServiceError: It stays locked, or cannot be read.
    """
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_S)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
    except sqlite3.DatabaseError as error:
        raise ServiceError(
            f"SQLite file {path} must be readable; got: {error}. No backup was written. Mend the file, or retry."
        ) from error


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except FileNotFoundError:
        return False


def _is_aside(path: Path) -> bool:
    """Return whether a file is another one's unfinished successor, or SQLite's own beside a database."""
    if path.name.startswith(".") or path.suffix in (".tmp", ".new"):
        return True
    return path.name.endswith(_SQLITE_ASIDE) and path.with_name(path.name.rpartition("-")[0]).exists()
