"""Kills the process of a running task with SIGKILL, once for each of some targets."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.runtime.airflow_api import AirflowApi


class Killer(threading.Thread):
    """Waits for a running task of each target, lets it go on for a moment, and kills it.

    Args:
        api: The Airflow whose tasks are killed.
        targets: Patterns of `stage.task`; one task of each is killed once.
        seed: Decides how long each victim may go on.
    """

    def __init__(self, *, api: AirflowApi, targets: tuple[str, ...], seed: int) -> None:
        super().__init__(daemon=True)
        self._api = api
        self._left = list(targets)
        self._random = random.Random(seed)
        self._ended = threading.Event()
        self.victims: dict[str, str] = {}

    def run(self) -> None:
        while self._left and not self._ended.is_set():
            for task in self._running():
                name = f"{task['dag_id'].split('_', 1)[0]}.{task['task_id']}"
                target = next((pattern for pattern in self._left if re.fullmatch(pattern, name)), None)
                if target and self._kill(task["pid"]):
                    self._left.remove(target)
                    self.victims[target] = name
            self._ended.wait(0.02)

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _running(self) -> list[dict[str, object]]:
        return list(self._api.get("dags/~/dagRuns/~/taskInstances", state="running", limit=50)["task_instances"])

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
