"""The trainer as a child process: it ends when its task ends, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import BadInputError, TrainingError
from include.training.command import EXIT_BAD_DATA, EXIT_BAD_JOB, EXIT_DONE, EXIT_INTERRUPTED, GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_REPO = Path(__file__).parents[2]
_NUM_LINES_KEPT = 5
# Airflow's settings and connections, the databases' URLs with their passwords, and the registry's credentials: the
# trainer opens the storage and nothing else.
_NOT_THE_TRAINERS = ("AIRFLOW", "TRADEWIND_DATABASE", "MLFLOW_")


@dataclass(kw_only=True)
class TrainerProcess:
    """Runs `python -m include.training` in a process group of its own.

    The child holds the reading end of a pipe whose writing end is this process: it stops, with a checkpoint, when that
    closes, which it does even when this process gets SIGKILL.

    Args:
        job_uri: The job.
        secrets: Environment that opens the storage.
        timeout_s: Seconds until it is stopped.
        say: Gets each line that the trainer prints.
    """

    job_uri: str
    secrets: Mapping[str, str] = field(repr=False)
    timeout_s: float
    say: Callable[[str], None]
    _child: subprocess.Popen[str] | None = None
    _took_too_long: bool = False

    def run(self) -> None:
        """Run the job to its end.

        Raises:
            BadInputError: The trainer refuses the job or its data; a retry would end the same.
            TrainingError: It was stopped, took too long, or crashed; a retry continues from its checkpoint.
        """
        child = self._child = self._start()
        timer = threading.Timer(self.timeout_s, self._give_up)
        timer.start()
        last: deque[str] = deque(maxlen=_NUM_LINES_KEPT)
        try:
            for line in child.stdout or ():
                last.append(line.rstrip())
                self.say(line.rstrip())
            code = child.wait()
        finally:
            timer.cancel()
            _end(child)
        limit_s = self.timeout_s if self._took_too_long else None
        _require_success(code, last, job_uri=self.job_uri, limit_s=limit_s)

    def terminate(self) -> None:
        """Ask the trainer to save a checkpoint and end. It does not wait, so that a signal handler may call it."""
        if self._child is not None and self._child.poll() is None:
            _signal(self._child, signal.SIGTERM)

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "include.training", "--job", self.job_uri, "--stop-with-stdin"],
            cwd=_REPO,
            env=_environment(self.secrets),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _give_up(self) -> None:
        self._took_too_long = True
        self.terminate()
        if self._child is not None and self._child.stdin:
            self._child.stdin.close()  # a trainer that does not react to SIGTERM ends itself a while after this


def _end(child: subprocess.Popen[str]) -> None:
    """Let the child save a checkpoint for 20 s, then kill it and all that it started."""
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=GRACE_S)
    _signal(child, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe:
            pipe.close()


def _signal(child: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: ours without the secrets that are none of the trainer's business."""
    ours = {name: value for name, value in os.environ.items() if not any(part in name for part in _NOT_THE_TRAINERS)}
    return ours | dict(secrets) | {"PYTHONUNBUFFERED": "1"}


def _require_success(code: int, last: deque[str], *, job_uri: str, limit_s: float | None) -> None:
    if code == EXIT_DONE:
        return
    said = " | ".join(last) or "nothing"
    what = f"training job {job_uri}"
    if limit_s is not None:
        raise TrainingError(
            f"{what} must end within {limit_s:g} s; got no end. A checkpoint is saved. A retry continues "
            "there; or raise training.timeout_s."
        )
    if code in (EXIT_BAD_JOB, EXIT_BAD_DATA):
        raise BadInputError(f"{what} was refused with exit code {code}; the trainer said: {said}")
    if code == EXIT_INTERRUPTED:
        raise TrainingError(f"{what} was interrupted. A checkpoint is saved. A retry continues there.")
    raise TrainingError(
        f"{what} must exit with 0; got {code}, and the trainer said: {said}. Checkpoints are kept. A retry "
        "continues at the newest one."
    )
