"""A deployment that must not run while it is moved."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from include.errors import SetupError
from include.runtime import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.runtime.home import Home


@contextmanager
def stopped(home: Home) -> Iterator[None]:
    """Keep a deployment from being started meanwhile.

    Raises:
        SetupError: It runs, it is not whole, or another command is at it.
    """
    home.require_made()
    with home.held():
        running = [process.name for process in processes.find(home.pids) if process.is_running]
        if running:
            raise SetupError(
                f"{home.root} must be stopped to be moved; got {', '.join(running)} running. Nothing was changed. "
                "`make down` first."
            )
        yield
