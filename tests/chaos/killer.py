"""Kills the process of a running task with SIGKILL, once in each of some stages."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.runtime.airflow_api import AirflowApi

WAITING = ("wait", "shadow_settled", "settled_")


class Killer(threading.Thread):
    """Waits for a working task of each stage, lets it go on for a moment, and kills it.

    Args:
        api: The Airflow whose tasks are killed.
        stages: Dag id prefixes; each is killed once.
        seed: Decides how long each victim may go on.
    """

    def __init__(self, *, api: AirflowApi, stages: tuple[str, ...], seed: int) -> None:
        super().__init__(daemon=True)
        self._api = api
        self._left = set(stages)
        self._random = random.Random(seed)
        self._ended = threading.Event()
        self.victims: list[tuple[str, str]] = []

    def run(self) -> None:
        while self._left and not self._ended.is_set():
            for task in self._running():
                stage = task["dag_id"].split("_", 1)[0]
                if stage in self._left and not task["task_id"].startswith(WAITING) and self._kill(task["pid"]):
                    self._left.discard(stage)
                    self.victims.append((stage, task["task_id"]))
            self._ended.wait(0.03)

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _running(self) -> list[dict[str, object]]:
        return list(self._api.get("dags/~/dagRuns/~/taskInstances", state="running", limit=50)["task_instances"])

    def _kill(self, pid: object) -> bool:
        """Kill a task's process unless it has ended; return whether it was killed."""
        if not isinstance(pid, int):
            return False
        time.sleep(self._random.uniform(0, 0.15))
        command = Path(f"/proc/{pid}/cmdline")
        if not command.exists() or b"airflow" not in command.read_bytes():
            return False
        os.kill(pid, signal.SIGKILL)
        return True
