"""What a task does to its process: Airflow gives each one a process of its own, a test has only the one it runs in."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def borrowed_process() -> Iterator[None]:
    """Undo at the end what the task runner changes: variables, signal handlers, the alarm of the test's own timeout."""
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    (left_s, interval_s), started_s = signal.getitimer(signal.ITIMER_REAL), time.monotonic()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if left_s:
            left_s -= time.monotonic() - started_s
            if left_s > 0:
                signal.setitimer(signal.ITIMER_REAL, left_s, interval_s)
            else:
                signal.raise_signal(
                    signal.SIGALRM
                )  # the test's time is over; the task has kept the exception to itself
