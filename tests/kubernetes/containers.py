"""What runs inside a scripted pod: a program is a generator, so that its time is the cluster's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.kubernetes.clock import Agenda

    Steps = Generator[float | str, None, int]
    """Yields seconds to wait and lines to log, and returns its exit code."""
    Program = Callable[[dict[str, Any], dict[str, Any]], Steps]
    """Takes the pod and the container's part of it."""


class Terminated(Exception):  # noqa: N818 - a signal, not an error
    """SIGTERM, as a program sees it."""


def sleep_and_exit(run_s: float = 5.0, exit_code: int = 0, *, stop_s: float = 0.0) -> Program:
    """Return a program that says what it does, takes its time, and ends; after a SIGTERM it needs `stop_s`."""

    def run(pod: dict[str, Any], container: dict[str, Any]) -> Steps:
        yield f"{pod['metadata']['name']}: {' '.join(container.get('args') or [])}"
        try:
            yield run_s
        except Terminated:
            yield stop_s
            raise
        yield f"exit {exit_code}"
        return exit_code

    return run


@dataclass(kw_only=True)
class Process:
    """A program on its way.

    Attributes:
        agenda: Whose time it takes.
        steps: The program.
        exited: Told the exit code, once.
        log: Time and text of each line.
        exit_code: Since it ended.
        reason: Why its kubelet says that it ended.
    """

    agenda: Agenda
    steps: Steps
    exited: Callable[[int], None]
    log: list[tuple[float, str]] = field(default_factory=list)
    exit_code: int | None = None
    reason: str = ""
    _turn: int = 0

    def go_on(self, *, terminate: bool = False) -> None:
        """Let it run until it waits or ends."""
        if self.exit_code is not None:
            return
        self._turn += 1
        try:
            step = self.steps.throw(Terminated) if terminate else next(self.steps)
            while isinstance(step, str):
                self.log.append((self.agenda.at, step))
                step = next(self.steps)
        except StopIteration as end:
            self._end(0 if end.value is None else end.value)
        except Terminated:
            self._end(143)
        else:
            turn = self._turn
            self.agenda.after(step, lambda: self.go_on() if turn == self._turn else None)

    def kill(self, reason: str = "Error") -> None:
        """End it without asking: SIGKILL."""
        if self.exit_code is None:
            self._turn += 1
            self.steps.close()
            self._end(137, reason)

    def vanish(self) -> None:
        """End it where nobody sees it: its node is gone."""
        self.exited = lambda _code: None
        self.kill()

    def _end(self, exit_code: int, reason: str = "") -> None:
        self.exit_code = exit_code
        self.reason = reason or ("Error" if exit_code else "Completed")
        self.exited(exit_code)
