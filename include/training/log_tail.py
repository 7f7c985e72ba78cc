"""New whole lines of a file that another process appends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(kw_only=True)
class LogTail:
    """Where the reading of a log has got to.

    Args:
        path: The log; it may not be there yet.
        position: Bytes that have been read.
    """

    path: Path
    position: int = 0

    def lines(self, *, is_over: bool) -> Iterator[str]:
        """Yield each line once, when its end is there; with `is_over` also a last one without."""
        try:
            with self.path.open("rb") as log:
                log.seek(self.position)
                found = log.read()
        except FileNotFoundError:
            return
        whole = found if is_over else found[: found.rfind(b"\n") + 1]
        self.position += len(whole)
        for line in whole.splitlines():
            yield line.decode(errors="replace")
