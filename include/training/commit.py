"""Which commit of the code runs: the trainer refuses a job that was written by another one.

`python -m include.training.commit` prints it; given a commit, as an image's build does, it stamps the code with that.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import BadInputError
from include.models import FOLDER as MODELS_DIR

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIABLE = "TRADEWIND_COMMIT"
STAMP = "COMMIT"
"""File beside the code of an image, where git is not: its commit, and a digest of it."""
_CODE = Path(__file__).parents[1]
_CODE_SUFFIXES = frozenset({".py", ".yaml"})
_NAME = re.compile(r"[\w.+-]+")
_HASH_CHARS = 12
_TIMEOUT_S = 20


def current_commit(folder: Path = _CODE, models_dir: Path = MODELS_DIR) -> str:
    """Return the commit of the code in a folder, so that two states of the code are never one commit.

    Models in another folder, which TRADEWIND_MODELS names, add `+models-<hash>` of their code.

    TRADEWIND_COMMIT wins, then an image's stamp, then git. Code that differs from its commit, by files that git does
    not track yet or that were mounted into an image too, gets a suffix that names the difference. Where git cannot tell
    (it is missing, refuses a folder of another owner, or tracks nothing there), the contents of the code stand for the
    commit: `no-git-<hash>`.
    """
    if named := os.environ.get(VARIABLE):
        return named
    commit = _commit_of(folder)
    if models_dir.is_relative_to(_CODE):
        return commit
    return f"{commit}+models-{_digest_of_code(models_dir)}"


def stamp(commit: str, folder: Path = _CODE) -> None:
    """Record the commit of the code in a folder that git will not know, and what that code is.

    Raises:
        BadInputError: It is no commit.
    """
    if not _NAME.fullmatch(commit):
        raise BadInputError(
            f"commit must be what `python -m include.training.commit` prints in the checkout; got {commit!r}. Nothing "
            'was stamped. Build the image with --build-arg COMMIT="$(python -m include.training.commit)".'
        )
    (folder / STAMP).write_text(f"{commit} {_digest_of_code(folder)}\n")


def _commit_of(folder: Path) -> str:
    if (folder / STAMP).is_file():
        commit, stamped = (folder / STAMP).read_text().split()
        found = _digest_of_code(folder)
        return commit if found == stamped else f"{commit}-changed-{found}"
    head = _git(folder, "rev-parse", "HEAD")
    difference = _git(folder, "diff", "HEAD", "--", ".")
    untracked = _git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    is_tracked = _git(folder, "ls-files", "--error-unmatch", "--", ".") is not None
    if head is None or difference is None or untracked is None or not is_tracked:
        return f"no-git-{_digest_of_code(folder)}"
    commit = head.decode().strip()
    if not difference and not untracked:
        return commit
    added = (folder / os.fsdecode(name) for name in untracked.split(b"\0") if name)
    return f"{commit}-dirty-{_digest(difference, folder=folder, files=added)}"


def _digest_of_code(folder: Path) -> str:
    return _digest(b"", folder=folder, files=(path for path in folder.rglob("*") if path.suffix in _CODE_SUFFIXES))


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


if __name__ == "__main__":
    if sys.argv[1:]:
        stamp(sys.argv[1])
    print(current_commit())  # noqa: T201 - the answer of a command
