"""The trainer as a child process of a task: it outlives a killed task for a while, and the next try goes on with it.

What happens to the trainer when its task ends otherwise than by itself:

| the task | the trainer | the next try |
|---|---|---|
| gets SIGTERM: on_kill, mark failed, clear, `down`, a worker that stops | saves a checkpoint, ends | continues there |
| takes too long, or raises | the same | the same |
| gets SIGKILL, or its worker dies | goes on for `LEASE_S`, then saves a checkpoint, ends | follows it to its end |

A killed task says nothing about whether the work is still wanted. To end the trainer at once, as a pipe from its parent
would, throws away what it did since its checkpoint, and its imports and data; to let it run on leaves a process that
nobody knows of. So it lives on a lease, which a task renews by following: the kernel knows who follows, since each task
holds a share of a lock, and lets go of it with the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import InterruptionError, TrainingError
from include.runtime import processes
from include.training.endings import exit_code_of
from include.training.exit_codes import ExitCode
from include.training.failure_kinds import Failure, FailureKind
from include.training.failures import Evidence, decide_outcome
from include.training.local_run import LocalRun
from include.training.log_tail import LogTail
from include.training.pod_status import by_exit_code
from include.training.result import Result, read_result
from include.training.stop import GRACE_S, LEASE_S
from include.training.submit import standing_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from include.lake.storage import Storage
    from include.runtime.processes import ManagedProcess
    from include.training.interruptions import Interruptions
    from include.training.job import Job
    from include.training.local_run import Follower

REPO = Path(__file__).parents[2]
MAX_INTERRUPTIONS = 5
"""Failures of machines in a row without a new checkpoint after which a try ends as a failure of its own."""
_NUM_LINES_KEPT = 5
_POLL_S = 0.05
_ENTER_S = 30.0
"""Seconds in which a trainer that holds its lock has said which process it is, or has ended."""
# Airflow's settings and connections, the databases' URLs with their passwords, and the registry's credentials: the
# trainer opens the storage and nothing else.
_NOT_THE_TRAINERS = ("AIRFLOW", "TRADEWIND_DATABASE", "MLFLOW_")


@dataclass(kw_only=True)
class TrainerProcess:
    """Runs `python -m include.training` for one job, or follows the process that does already.

    Args:
        job: The job.
        storage: Where it lies; its options reach the trainer by its environment.
        timeout_s: Seconds after the trainer's start at which it is stopped.
        say: Gets each line that the trainer prints, soon after.
        lease_s: Seconds that the trainer goes on when no task follows it.
        grace_s: Seconds that it may take to end when it is asked to, before it is killed.
        entrypoint: The training command without its options.
        interruptions: Counts failures of machines, which are tried again here; None: each one ends this try.
    """

    job: Job
    storage: Storage = field(repr=False)
    timeout_s: float
    say: Callable[[str], None]
    lease_s: float = LEASE_S
    grace_s: float = GRACE_S
    entrypoint: tuple[str, ...] = (sys.executable, "-m", "include.training")
    interruptions: Interruptions | None = None
    _process: ManagedProcess | None = None
    _child: subprocess.Popen[bytes] | None = None
    _follower: Follower | None = None
    _stopped: Failure | None = None
    _stopped_at_s: float = 0.0
    _is_left: bool = False

    def run(self) -> Result:
        """Train the job to its end and return its result.

        Raises:
            TradewindError: It ended without one; the class says who has to do something about it.
        """
        with contextlib.ExitStack() as stack:
            run = self._enter(stack)
            while True:
                is_survivor, evidence = self._attend(run)
                result = read_result(self.job, storage=self.storage)
                if result is not None:
                    return result
                outcome = decide_outcome(result, evidence)
                failure = (outcome.failure if outcome else None) or Failure(kind=FailureKind.UNKNOWN)
                if is_survivor and failure.is_infrastructure and not self._stopped:
                    self.say("the trainer of an earlier try has ended; another one goes on")
                else:
                    self._wait_for_another_start(failure)

    def _enter(self, stack: contextlib.ExitStack) -> LocalRun:
        """Return the trainer's folder, which this task follows until the stack closes."""
        while True:
            try:
                run = LocalRun.of(self.job.uri)
                self._follower = stack.enter_context(run.followed())
            except OSError as error:
                self._wait_for_another_start(_of_a_disk(error))
            else:
                return run

    def terminate(self) -> None:
        """Ask the trainer to save a checkpoint and end, unless another task follows it too.

        It does not wait for that, so that a signal handler may call it.
        """
        self._stop(Failure(kind=FailureKind.INTERRUPTED, evidence=("the task was asked to stop",)))

    def _wait_for_another_start(self, failure: Failure) -> None:
        """Return after a pause if machines failed, so that another trainer starts in this very try; raise otherwise."""
        standing = standing_of(self.job, storage=self.storage)
        subject, counted = f"training job {self.job.uri}", self.interruptions
        if self._stopped and failure.is_infrastructure:
            raise InterruptionError(failure.message(subject, standing))
        if counted is None or not failure.is_infrastructure:
            raise failure.error(subject, standing)
        if why := counted.count(failure.kind, limit=MAX_INTERRUPTIONS, checkpoint=standing.checkpoint):
            raise failure.error(subject, standing, next_try=why)
        pause_s, of = counted.back_off_s, f"{counted.num} of {MAX_INTERRUPTIONS}"
        then = f"It starts again in {pause_s:g} s, interruption {of}; no retry is used up."
        self.say(failure.message(subject, standing, next_try=then))
        until_s = time.monotonic() + pause_s
        while time.monotonic() < until_s:
            if self._stopped:
                raise InterruptionError(self._stopped.message(subject, standing))
            time.sleep(_POLL_S)

    def _attend(self, run: LocalRun) -> tuple[bool, Evidence]:
        """Start a trainer, or find the one that lives, and follow it to its end; return whether it was found."""
        num_kills = num_memory_kills()
        try:
            lock = run.claim()
            process = self._find(run) if lock is None else self._start(run, lock)
        except OSError as error:
            return False, Evidence(stopped=self._not_started(error))
        self._process = process
        if self._stopped:
            self._stop(self._stopped)  # this task was ended before there was a process
        said: deque[str] = deque(maxlen=_NUM_LINES_KEPT)
        try:
            self._follow(run, process, said)
        finally:
            self._end(process)
        exit_code = self._child.returncode if self._child else run.exit_code()
        stopped = self._stopped
        if exit_code == -signal.SIGKILL and not stopped and (more := num_memory_kills() - num_kills):
            seen = f"it got SIGKILL, and the kernel ended {more} process(es) for want of memory while it ran"
            stopped = Failure(kind=FailureKind.OUT_OF_MEMORY, evidence=(seen, *said))
        return lock is None, Evidence(exit_code=exit_code, is_gone=True, stopped=stopped, said=tuple(said))

    def _find(self, run: LocalRun) -> ManagedProcess:
        self._child = None
        deadline_s = time.monotonic() + _ENTER_S
        while (process := run.trainer()) is None:
            if time.monotonic() > deadline_s:
                raise TrainingError(
                    f"the trainer that holds {run.folder} must say within {_ENTER_S:g} s which process it is; got "
                    "nothing. Checkpoints are kept. A retry looks again."
                )
            time.sleep(_POLL_S)
        self.say(f"process {process.pid} trains this job since {process.started_at.isoformat()}: going on with it")
        return process

    def _start(self, run: LocalRun, lock: int) -> ManagedProcess:
        options = ["--job", self.job.uri, "--local-run", str(run.folder), "--lease-s", str(self.lease_s)]
        try:
            with run.log.open("ab") as log:
                self._child = subprocess.Popen(
                    [*self.entrypoint, *options],
                    cwd=REPO,
                    env=trainer_environment(self.storage.options),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock,),  # it holds the lock from its first moment on, and as long as it lives
                )
            return self._entered(run, self._child)
        finally:
            os.close(lock)

    def _entered(self, run: LocalRun, child: subprocess.Popen[bytes]) -> ManagedProcess:
        try:
            return run.enter(child.pid)
        except OSError:
            child.kill()  # no retry could find it
            child.wait()
            raise

    def _not_started(self, error: OSError) -> Failure:
        if error.filename == self.entrypoint[0]:
            return Failure(kind=FailureKind.SETUP, evidence=(str(error),))
        return _of_a_disk(error)

    def _follow(self, run: LocalRun, process: ManagedProcess, said: deque[str]) -> None:
        """Pass on what the trainer prints until it has ended, or until this task has to leave it."""
        tail = LogTail(path=run.log, position=run.heard())
        age_s = max(0.0, time.time() - process.started_at.timestamp()) if self._child is None else 0.0
        deadline_s = time.monotonic() + self.timeout_s - age_s
        is_over = False
        while not (is_over or self._is_left):
            is_over = not process.is_running  # asked first, so that what it printed last is still read
            for line in tail.lines(is_over=is_over):
                said.append(line)
                self.say(line)
                run.heard(tail.position)
            if time.monotonic() > deadline_s and not self._stopped:
                took = f"training.timeout_s is {self.timeout_s:g} s"
                self._stop(Failure(kind=FailureKind.DEADLINE, evidence=(took,)))
            if self._stopped and time.monotonic() > self._stopped_at_s + self.grace_s:
                break
            if not is_over:
                time.sleep(_POLL_S)

    def _stop(self, why: Failure) -> None:
        self._stopped, self._stopped_at_s = self._stopped or why, time.monotonic()
        if self._process is None or self._follower is None:
            return
        if self._follower.is_alone():
            processes.ask_to_stop(self._process)
        else:
            self._is_left = True

    def _end(self, process: ManagedProcess) -> None:
        """Leave no trainer behind that nobody follows: let it save a checkpoint for its grace, then kill it."""
        if process.is_running and not self._is_left:
            if not self._stopped:
                self._stop(Failure(kind=FailureKind.INTERRUPTED, evidence=("the task could not follow it",)))
            deadline_s = self._stopped_at_s + self.grace_s
            while process.is_running and not self._is_left and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
            if process.is_running and not self._is_left:
                _kill(process)
        if self._child and not self._is_left:
            self._child.wait()


def _of_a_disk(error: OSError) -> Failure:
    """Return the failure that an error of this machine's disk is, as the trainer would call it.

    Raises:
        OSError: It is no error of a disk.
    """
    code = exit_code_of(error, refused=ExitCode.BAD_JOB)
    failure = by_exit_code(code, said=(str(error),))
    if code != ExitCode.PREFLIGHT_FAILED or failure is None:
        raise error
    return failure


def _kill(process: ManagedProcess) -> None:
    """End a trainer that does not end by itself, and all that it started."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(process.pid)
        for found in (*leader.children(recursive=True), leader):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.kill()


def trainer_environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: ours without the secrets that are none of the trainer's business."""
    ours = {name: value for name, value in os.environ.items() if not any(part in name for part in _NOT_THE_TRAINERS)}
    if "AWS_ACCESS_KEY_ID" in secrets:
        ours.pop("AWS_SESSION_TOKEN", None)  # it goes with other keys
    return ours | dict(secrets) | {"PYTHONUNBUFFERED": "1"}


def num_memory_kills() -> int:
    """Return how many processes the kernel has ended for want of memory since the machine started; 0 if it hides it."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
