"""Kills what a deployment consists of with SIGKILL, at moments that a seed decides, and watches it come back."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.demo.flights import MODEL
from include.errors import TradewindError
from include.runtime import processes, stack
from include.runtime.state import SUPERVISOR, read_state
from include.serving.client import ModelServerClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from include.runtime.airflow_api import AirflowApi
    from include.runtime.services import Deployment

RECOVERY_TIMEOUT_S = 240.0
MAX_AT_ONCE = 2
"""How many victims may be down at the same moment."""
_LOOK_EVERY_S = 0.1
_IN_HAND = ("queued", "running")


@dataclass(kw_only=True)
class Kill:
    """One SIGKILL.

    Args:
        kind: `task`, or the service.
        victim: `stage.task`, or the service.
        at_s: Seconds since the killing began.
        recovered_s: Seconds until it worked again; None: it did not in time.
    """

    kind: str
    victim: str
    at_s: float
    recovered_s: float | None = None


class TaskKiller(threading.Thread):
    """Waits for a running task of each target, lets it go on for a moment, and kills it.

    Args:
        api: The Airflow whose tasks are killed.
        targets: Patterns of `stage.task`; one task of each is killed once.
        seed: Decides how long each victim may go on.
    """

    def __init__(self, *, api: AirflowApi, targets: Sequence[str], seed: int) -> None:
        super().__init__(daemon=True)
        self._api = api
        self._left = list(targets)
        self._random = random.Random(seed)
        self._ended = threading.Event()
        self._began_s = time.monotonic()
        self._watchers: list[threading.Thread] = []
        self.kills: list[Kill] = []

    def run(self) -> None:
        while self._left and not self._ended.wait(_LOOK_EVERY_S / 2):
            for task in _tasks_if_any(self._api, "running"):
                name = f"{task['dag_id'].split('_', 1)[0]}.{task['task_id']}"
                target = next((pattern for pattern in self._left if re.fullmatch(pattern, name)), None)
                if target and self._kill(task["pid"]):
                    self._left.remove(target)
                    kill = Kill(kind="task", victim=name, at_s=round(time.monotonic() - self._began_s, 1))
                    self.kills.append(kill)
                    self._watchers.append(_watch(kill, partial(_has_gone_on, self._api, task)))

    def stop(self) -> None:
        self._ended.set()
        for thread in (self, *self._watchers):
            thread.join()

    def _kill(self, pid: object) -> bool:
        """Kill a task's process unless it has ended; return whether it was killed."""
        if not isinstance(pid, int):
            return False
        time.sleep(self._random.uniform(0, 0.1))
        command = Path(f"/proc/{pid}/cmdline")
        if not command.exists() or b"airflow" not in command.read_bytes():
            return False
        os.kill(pid, signal.SIGKILL)
        return True


class ServiceKiller(threading.Thread):
    """Kills a shuffled deck of services, one whenever the loop says something new; what is left of it, at the end.

    So the kills are spread over the stages, however long each takes. While callers ask, the model server is one more.

    Args:
        deployment: A running deployment.
        api: Its Airflow.
        deck: Names of services, each as often as it shall be killed.
        gap_s: Shortest and longest pause before a kill.
        seed: Decides the order and the pauses.
    """

    def __init__(
        self,
        *,
        deployment: Deployment,
        api: AirflowApi,
        deck: Sequence[str],
        gap_s: tuple[float, float],
        seed: int,
    ) -> None:
        super().__init__(daemon=True)
        self._deployment, self._api, self._gap_s = deployment, api, gap_s
        self._random = random.Random(seed)
        self._deck = self._random.sample(list(deck), len(deck))
        self._heard: set[str] = set()
        self._allowed = 0
        self._of_callers = random.Random(seed + 1)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._began_s = time.monotonic()
        self._watchers: list[tuple[Kill, threading.Thread]] = []

    @property
    def kills(self) -> list[Kill]:
        return [kill for kill, _ in self._watchers]

    def hear(self, text: str) -> None:
        """Allow one more kill when the loop is where it has not been before."""
        if text not in self._heard:
            self._heard.add(text)
            self._allowed += 1
            if "callers ask" in text:
                threading.Timer(self._of_callers.uniform(0.1, 1.0), self._kill_one, [("model-server",)]).start()

    def finish(self) -> None:
        """Kill what is left, then wait until everything works again."""
        self._allowed = len(self._deck) + len(self._watchers)
        self.join()
        for _, thread in self._watchers:
            thread.join()

    def stop(self) -> None:
        """Kill nothing more; for a run that failed."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        while self._deck and not self._ended.wait(self._random.uniform(*self._gap_s)):
            if len(self._watchers) < self._allowed:
                self._kill_one(self._deck)

    def _kill_one(self, choices: Sequence[str]) -> None:
        """Kill the first of some services that is in the deck and not down already."""
        with self._lock:
            down = {kill.victim for kill, thread in self._watchers if thread.is_alive()}
            victim = next((name for name in choices if name in self._deck and name not in down), None)
            if victim and len(down) < MAX_AT_ONCE and self._kill(victim):
                self._deck.remove(victim)

    def _kill(self, victim: str) -> bool:
        home = self._deployment.home
        process = processes.running(home.pids).get(victim)
        if process is None:
            return False
        in_hand = _tasks_if_any(self._api, *_IN_HAND) if victim == "scheduler" else []
        if not process.is_running:
            return False
        os.kill(process.pid, signal.SIGKILL)
        kill = Kill(kind=victim, victim=victim, at_s=round(time.monotonic() - self._began_s, 1))

        def is_back() -> bool:
            if process.is_running:
                return False  # a signal takes a moment to be obeyed
            if victim == SUPERVISOR:
                stack.up(self._deployment, say=lambda _: None, models=(MODEL,))
                return True
            told = read_state(home)
            now = next((state for state in told.processes if state.name == victim), None) if told else None
            if now is None or now.phase != "ready" or now.pid == process.pid:
                return False
            if victim == "model-server":
                return ModelServerClient(base_url=self._deployment.model_server_url).is_ready()
            return all(_has_gone_on(self._api, task) for task in in_hand)

        self._watchers.append((kill, _watch(kill, is_back)))
        return True


def _watch(kill: Kill, is_back: Callable[[], bool]) -> threading.Thread:
    """Measure, in a thread, how long it takes until something works again."""
    killed_s = time.monotonic()

    def wait() -> None:
        while time.monotonic() - killed_s < RECOVERY_TIMEOUT_S:
            try:
                done = is_back()
            except TradewindError:
                done = False  # somebody else is away too
            if done:
                kill.recovered_s = round(time.monotonic() - killed_s, 1)
                return
            time.sleep(_LOOK_EVERY_S)

    thread = threading.Thread(target=wait, daemon=True, name=f"watch-{kill.victim}")
    thread.start()
    return thread


def _tasks(api: AirflowApi, *states: str) -> list[dict[str, Any]]:
    return list(api.get("dags/~/dagRuns/~/taskInstances", state=list(states), limit=50)["task_instances"])


def _tasks_if_any(api: AirflowApi, *states: str) -> list[dict[str, Any]]:
    try:
        return _tasks(api, *states)
    except TradewindError:
        return []  # the API server is away as well


def _has_gone_on(api: AirflowApi, task: dict[str, Any]) -> bool:
    """Return whether a task that was in hand at a kill is at a later try or state."""
    path = f"dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}"
    now = api.get(path)
    is_later = now["try_number"] > task["try_number"] and now["state"] in ("running", "success", "deferred")
    return is_later or now["state"] in ("success", "skipped", "failed", "deferred")
