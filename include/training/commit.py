"""Which commit of the code runs: the trainer refuses a job that was written by another one."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

UNKNOWN = "unknown"
VARIABLE = "TRADEWIND_COMMIT"
_CODE = Path(__file__).parents[1]
_TIMEOUT_S = 20


def current_commit(folder: Path = _CODE) -> str:
    """Return the commit of the code in a folder, `unknown` if nothing says.

    An image without `.git` names it in TRADEWIND_COMMIT. Code that differs from its commit gets a suffix that names the
    difference, so that two states of a working tree are two commits.
    """
    if named := os.environ.get(VARIABLE):
        return named
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return UNKNOWN
    difference = _git(folder, "diff", "HEAD", "--", ".")
    if not difference:
        return commit.decode().strip()
    return f"{commit.decode().strip()}-dirty-{hashlib.sha256(difference).hexdigest()[:12]}"


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - git of the PATH, as people use it
            capture_output=True,
            check=True,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
