"""A Delta table at one version: which files make it up, with the history that led to it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from include.errors import ServiceError

if TYPE_CHECKING:
    from pathlib import Path

LOG = "_delta_log"
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..*parquet")


@dataclass(frozen=True, kw_only=True)
class PinnedTable:
    """A table as of one version; later commits change none of its files.

    Args:
        version: Its newest version when it was pinned.
        files: Its log up to that version and the data files that the log names, relative to the table's folder.
    """

    version: int
    files: tuple[str, ...]


def pin_table(folder: Path) -> PinnedTable | None:
    """Return the newest version of a local table; None if its first commit was not made yet.

    Files of versions that a vacuum has removed are left out; a file of the newest one must be there.

    Raises:
        ServiceError: A vacuum removed files of the newest version meanwhile.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        table = DeltaTable(str(folder))
    except TableNotFoundError:
        return None
    version = int(table.version())
    log = folder / LOG
    commits = sorted(path.name for path in log.iterdir() if _is_up_to(_COMMIT, path.name, version))
    checkpoints = sorted(path.name for path in log.iterdir() if _is_up_to(_CHECKPOINT, path.name, version))
    active = {unquote(path) for path in table.get_add_actions(flatten=True)["path"].to_pylist()}
    missing = sorted(path for path in active if not (folder / path).is_file())
    if missing:
        raise ServiceError(
            f"table {folder} must hold the files of its version {version}; got none at {missing[0]}. No backup was "
            "written. Start it again."
        )
    named = active.union(*(_added(log / name) for name in commits))
    data = sorted(path for path in named if (folder / path).is_file())
    return PinnedTable(version=version, files=(*(f"{LOG}/{name}" for name in (*commits, *checkpoints)), *data))


def _is_up_to(pattern: re.Pattern[str], name: str, version: int) -> bool:
    found = pattern.fullmatch(name)
    return found is not None and int(found[1]) <= version


def _added(commit: Path) -> set[str]:
    actions = (json.loads(line) for line in commit.read_text().splitlines() if line)
    return {unquote(action["add"]["path"]) for action in actions if "add" in action}
