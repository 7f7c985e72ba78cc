"""Which commit of the code runs: the trainer refuses a job that was written by another one."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from include.models import FOLDER as MODELS_DIR

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIABLE = "TRADEWIND_COMMIT"
_CODE = Path(__file__).parents[1]
_CODE_SUFFIXES = frozenset({".py", ".yaml"})
_HASH_CHARS = 12
_TIMEOUT_S = 20


def current_commit(folder: Path = _CODE, models_dir: Path = MODELS_DIR) -> str:
    """Return the commit of the code in a folder, so that two states of the code are never one commit.

    Models in another folder, which TRADEWIND_MODELS names, add `+models-<hash>` of their code.

    An image names it in TRADEWIND_COMMIT. Code that differs from its commit, by files that git does not track yet too,
    gets a suffix that names the difference. Where git cannot tell (it is missing, refuses a folder of another owner, or
    tracks nothing there), the contents of the code stand for the commit: `no-git-<hash>`.
    """
    if named := os.environ.get(VARIABLE):
        return named
    commit = _commit_of(folder)
    if models_dir.is_relative_to(_CODE):
        return commit
    models = (path for path in models_dir.rglob("*") if path.suffix in _CODE_SUFFIXES)
    return f"{commit}+models-{_digest(b'', folder=models_dir, files=models)}"


def _commit_of(folder: Path) -> str:
    head = _git(folder, "rev-parse", "HEAD")
    difference = _git(folder, "diff", "HEAD", "--", ".")
    untracked = _git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    is_tracked = _git(folder, "ls-files", "--error-unmatch", "--", ".") is not None
    if head is None or difference is None or untracked is None or not is_tracked:
        code = (path for path in folder.rglob("*") if path.suffix in _CODE_SUFFIXES)
        return f"no-git-{_digest(b'', folder=folder, files=code)}"
    commit = head.decode().strip()
    if not difference and not untracked:
        return commit
    added = (folder / os.fsdecode(name) for name in untracked.split(b"\0") if name)
    return f"{commit}-dirty-{_digest(difference, folder=folder, files=added)}"


def _digest(difference: bytes, *, folder: Path, files: Iterable[Path]) -> str:
    """Return the start of a hash over a difference and the names and contents of files, in any order."""
    total = hashlib.sha256(difference)
    for path in sorted(files):
        if path.is_file():  # git lists links to folders and nested repositories as well
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(os.fsencode(f"\0{path.relative_to(folder).as_posix()}\0{content}"))
    return total.hexdigest()[:_HASH_CHARS]


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
