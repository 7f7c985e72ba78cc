"""Log files of a bounded size: what a process appended is copied aside and cut off under it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class LogLimits:
    """How much is kept of each process's log.

    Args:
        max_bytes: A file of this size is rotated.
        num_kept: How many rotated files stay beside it: `NAME.log.1` is the newest.
    """

    max_bytes: int = 10 * 1024**2
    num_kept: int = 4


def rotate(path: Path, limits: LogLimits) -> bool:
    """Rotate a log if it is too large; return whether it was.

    The process goes on writing to the same file, which it must have opened to append. Its bytes are copied until no new
    ones are found, then the file is cut: a line that is written in the instant between is lost. A kill of this process
    between the two leaves the lines in both files.
    """
    if path.stat().st_size < limits.max_bytes:
        return False
    rotated = [path.with_name(f"{path.name}.{number}") for number in range(1, limits.num_kept + 1)]
    for newer, older in reversed(list(pairwise(rotated))):
        if newer.exists():
            newer.replace(older)
    with path.open("r+b") as source, rotated[0].open("wb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        while source.tell() < os.fstat(source.fileno()).st_size:
            shutil.copyfileobj(source, copy)
        source.truncate(0)
    return True
