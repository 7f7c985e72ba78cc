"""A scripted pod that runs the real trainer: `python -m include.training` as a child process.

The trainer's time is real. The cluster's stands still meanwhile, and goes on by a step for each line that it prints.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.training.commit import VARIABLE
from tests.kubernetes.containers import Terminated
from tests.kubernetes.world import COMMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kubernetes.containers import Steps

_ROOT = Path(__file__).parents[2]


@dataclass(kw_only=True)
class RealTrainer:
    """The program of a training's pods.

    Attributes:
        step_s: Seconds of the cluster's time for each line.
        said: Called with the number of the run, from 1, the pod's name, and each line.
        exit_codes: Of the runs that have ended by themselves.
    """

    step_s: float = 10.0
    said: Callable[[int, str, str], None] = lambda _run, _pod, _line: None
    exit_codes: list[int] = field(default_factory=list)
    num_runs: int = 0

    def __call__(self, pod: dict[str, Any], container: dict[str, Any]) -> Steps:
        """Train; a `Program`."""
        arguments = [*(container.get("command") or []), *(container.get("args") or [])]
        job = arguments[arguments.index("--job") :]
        self.num_runs += 1
        number = self.num_runs
        process = subprocess.Popen(
            [sys.executable, "-m", "include.training", *job],
            cwd=_ROOT,
            env={**os.environ, VARIABLE: COMMIT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        try:
            for line in process.stdout or ():
                yield line.rstrip("\n")
                self.said(number, pod["metadata"]["name"], line)
                try:
                    yield self.step_s
                except Terminated:
                    process.terminate()
            self.exit_codes.append(process.wait())
            return process.returncode
        finally:
            process.kill()
            process.communicate()
