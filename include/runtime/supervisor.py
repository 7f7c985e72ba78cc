"""`python -m include.runtime.supervisor --home ROOT`: starts a deployment's processes, and starts again what ends.

It watches by process id and by check: what died, or is silent for long, is ended with all that it started, and starts
again after a pause that doubles with each failure in a row. What it watches outlives it: a new supervisor finds the
running processes by their process files and goes on. SIGTERM and SIGINT stop everything, the database last.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from include.runtime import processes
from include.runtime.home import Home
from include.runtime.logs import LogLimits, rotate
from include.runtime.restarts import Health, RestartPolicy
from include.runtime.secrets import load_secrets
from include.runtime.services import Deployment, Ports
from include.runtime.state import SUPERVISOR, SupervisorState, write_state
from include.runtime.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.runtime.processes import ManagedProcess
    from include.runtime.services import Service

_LOG = logging.getLogger(SUPERVISOR)
_TICK_S = 0.1
_SAY_EVERY_S = 5.0
_UNREADY_CHECK_S = 0.2
EXIT_BUSY = 75


@dataclass(kw_only=True)
class Supervisor:
    """Keeps services running until it is told to stop.

    Args:
        home: Folders of process files, logs and state.
        services: What runs, in the order of starting.
        policy: How patient it is.
        limits: When logs are rotated.
        rotate_every_s: Pause between two looks at their sizes.
    """

    home: Home
    services: Sequence[Service]
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    limits: LogLimits = field(default_factory=LogLimits)
    rotate_every_s: float = 5.0
    is_stopping: bool = False
    _watched: dict[str, Watched] = field(init=False)
    _said: SimpleQueue[tuple[Watched, ManagedProcess, Health]] = field(default_factory=SimpleQueue)
    _exits: dict[int, int] = field(default_factory=dict)
    _told: SupervisorState | None = None
    _told_at_s: float = float("-inf")
    _rotated_at_s: float = float("-inf")

    def __post_init__(self) -> None:
        """Watch every service; none is started yet."""
        self._watched = {service.name: Watched(service=service) for service in self.services}

    def run(self) -> None:
        """Adopt what runs, start the rest, and watch until `is_stopping`; then stop everything."""
        self._adopt()
        for watched in self._watched.values():
            threading.Thread(target=self._check, args=(watched,), name=watched.service.name, daemon=True).start()
        while not self.is_stopping:
            self._exits = processes.reap()
            self._look(now_s=time.monotonic())
            self._tell(now_s=time.monotonic())
            self._rotate_logs(now_s=time.monotonic())
            time.sleep(_TICK_S)
        _LOG.info("stopping everything")
        found = [process for process in processes.find(self.home.pids) if process.name != SUPERVISOR]
        processes.stop_all(found, pids=self.home.pids, say=_LOG.info)
        processes.reap()

    def _adopt(self) -> None:
        now_s = time.monotonic()
        for process in processes.find(self.home.pids):
            watched = self._watched.get(process.name)
            if watched and process.is_running:
                watched.process, watched.heard_at_s, watched.was_started = process, now_s, True
                _LOG.info("%s runs already, pid %d", process.name, process.pid)
            elif watched:
                processes.kill(process)  # what it left behind holds its port, or its work

    def _look(self, *, now_s: float) -> None:
        """Notice what got ready, ended or hangs, and start what may be started."""
        while not self._said.empty():
            heard, about, health = self._said.get()
            heard.hear(about, health, now_s=now_s)
        for watched in self._watched.values():
            process = watched.process
            if process and not process.is_running:
                self._exits |= processes.reap()
                self._has_ended(watched, how=_describe(self._exits.get(process.pid)), now_s=now_s)
            elif process and self._hangs(watched, now_s=now_s):
                self._has_ended(watched, how=f"silent for {now_s - watched.heard_at_s:.0f} s", now_s=now_s)
            if watched.process is None and now_s >= watched.next_try_s and not self._missing(watched.service):
                self._start(watched, now_s=now_s)

    def _hangs(self, watched: Watched, *, now_s: float) -> bool:
        if self._missing(watched.service):
            watched.heard_at_s = now_s  # who waits for another server is not to blame for saying nothing
            return False
        return self.policy.hangs(was_ready=watched.ready_at_s is not None, silent_for_s=now_s - watched.heard_at_s)

    def _has_ended(self, watched: Watched, *, how: str, now_s: float) -> None:
        process, name = watched.process, watched.service.name
        if process is None:
            return
        # At once, with SIGKILL: tasks that a dead scheduler left would report a failure that is none of theirs, while
        # without a report the next scheduler runs them again.
        processes.kill(process)
        ready_for_s = 0.0 if watched.ready_at_s is None else now_s - watched.ready_at_s
        is_excused = self._lost_a_need(watched, now_s=now_s)
        watched.num_failures = self.policy.failures_after_end(
            watched.num_failures, ready_for_s=ready_for_s, is_excused=is_excused
        )
        delay_s = self.policy.delay_s(0 if is_excused else watched.num_failures)
        watched.process, watched.ready_at_s, watched.last_exit = None, None, how
        watched.next_try_s = now_s + delay_s
        why = ", without a server that it needs" if is_excused else ""
        _LOG.warning("%s (pid %d) ended%s: %s; it starts again in %.1f s", name, process.pid, why, how, delay_s)

    def _missing(self, service: Service) -> list[str]:
        return [name for name in service.needs if self._watched[name].ready_at_s is None]

    def _lost_a_need(self, watched: Watched, *, now_s: float) -> bool:
        """Return whether a server that it needs is away, or came back so lately that its absence may be the cause."""
        recent_s = now_s - self.policy.silent_after_s
        needs = [self._watched[name] for name in watched.service.needs]
        return any(n.ready_at_s is None or (n.num_restarts and n.ready_at_s > recent_s) for n in needs)

    def _start(self, watched: Watched, *, now_s: float) -> None:
        service = watched.service
        watched.num_restarts += watched.was_started
        watched.was_started = True
        try:
            service.before_start()
            watched.process = processes.start(
                service.name,
                service.command,
                env=service.env,
                pids=self.home.pids,
                log=self.home.logs / f"{service.name}.log",
                niceness=service.niceness,
                grace_s=service.grace_s,
            )
        except OSError as error:
            watched.num_failures += 1
            watched.last_exit = f"could not be started: {error}"
            watched.next_try_s = now_s + self.policy.delay_s(watched.num_failures)
            _LOG.warning("%s %s", service.name, watched.last_exit)
            return
        watched.heard_at_s = now_s
        _LOG.info("%s started, pid %d", service.name, watched.process.pid)

    def _check(self, watched: Watched) -> None:
        """Check one service until the end; a slow check delays nothing else."""
        while not self.is_stopping:
            process = watched.process
            if process is not None:
                self._said.put((watched, process, _ask(watched.service, since=process.started_at)))
            # Short sleeps, so that a new process is checked at once, however patient the checks of the last one were.
            pause_s = _UNREADY_CHECK_S if watched.ready_at_s is None else self.policy.check_interval_s
            until_s = time.monotonic() + pause_s
            while not self.is_stopping and time.monotonic() < until_s and process is watched.process:
                time.sleep(_UNREADY_CHECK_S)

    def _tell(self, *, now_s: float) -> None:
        """Write the state when it has changed, and every few seconds to show that somebody is there."""
        now = datetime.now(UTC)
        states = tuple(watched.state(now_s=now_s, now=now) for watched in self._watched.values())
        is_old = now_s - self._told_at_s >= _SAY_EVERY_S
        if is_old or self._told is None or [s.facts() for s in states] != [s.facts() for s in self._told.processes]:
            self._told, self._told_at_s = SupervisorState(told_at=now.isoformat(), processes=states), now_s
            try:
                write_state(self.home, self._told)
            except OSError as error:  # a full disk must not end the supervision
                _LOG.warning("the state was not written: %s", error)

    def _rotate_logs(self, *, now_s: float) -> None:
        if now_s - self._rotated_at_s < self.rotate_every_s:
            return
        self._rotated_at_s = now_s
        for path in self.home.logs.glob("*.log"):
            try:
                rotate(path, self.limits)
            except OSError as error:  # same
                _LOG.warning("%s was not rotated: %s", path, error)


def _ask(service: Service, *, since: datetime) -> Health:
    """Return what a check says; one that is broken itself says nothing about the service."""
    try:
        return service.check(since=since)
    except Exception:  # noqa: BLE001 - its thread must live: a service that nobody checks would be taken for silent
        _LOG.exception("%s could not be checked", service.name)
        return Health.UNKNOWN


def _describe(code: int | None) -> str:
    """Return how a process ended, in words; None when it was not this supervisor's child.

    >>> [_describe(code) for code in (None, 0, 1, -9)]
    ['ended unseen', 'exit code 0', 'exit code 1', 'SIGKILL']
    """
    if code is None:
        return "ended unseen"
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def supervise(supervisor: Supervisor) -> int:
    """Run a supervisor in this process until SIGTERM or SIGINT; return the exit code.

    A second one of the same deployment ends at once with `EXIT_BUSY`.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(supervisor, "is_stopping", True))
    with (supervisor.home.root / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.warning("another supervisor watches %s", supervisor.home.root)
            return EXIT_BUSY
        processes.adopt_orphans()
        supervisor.run()
    return 0


def main(arguments: list[str]) -> int:
    """Supervise the deployment below `--home`, on the ports that `up` wrote down."""
    parser = argparse.ArgumentParser(prog="include.runtime.supervisor", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    home = Home(root=parser.parse_args(arguments).home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    ports = Ports(**json.loads((home.root / "ports.json").read_text()))
    deployment = Deployment(home=home, secrets=load_secrets(home.secrets), ports=ports)
    return supervise(Supervisor(home=home, services=deployment.services()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
