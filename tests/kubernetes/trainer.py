"""What a scripted pod runs in the place of the trainer: the same promises, without the hours.

It reads the real job file, goes on at its checkpoint, writes one every `checkpoint_s` seconds, writes the real
`result.json` last, and on SIGTERM saves a checkpoint and exits 75, as `python -m include.training` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from include.training.exit_codes import ExitCode
from include.training.job import load_job
from include.training.result import Epoch, Result, read_result, write_result
from tests.kubernetes.containers import Terminated

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage
    from include.training.job import Job
    from tests.kubernetes.clock import Agenda
    from tests.kubernetes.containers import Steps

Flaw = Literal["none", "user_error", "bad_data", "no_result"]
"""`no_result`: it exits 0 without having written its result, as behind a shell's pipe or an upload that was lost."""

_READ_S = 5.0
_EXPORT_S = 5.0
_SAVE_S = 2.0
_CLOSE_S = 3.0
_PROGRESS_FILE = "progress.json"


@dataclass(kw_only=True)
class Run:
    """One process of a trainer.

    Attributes:
        job_key: What it trained.
        pod: Name of its pod.
        began_at: When it began.
        from_s: Seconds of work that its checkpoint spared it.
        reached_s: Seconds of work that were done when it ended, whether saved or not.
        ended_at: When it ended.
    """

    job_key: str
    pod: str
    began_at: float
    from_s: float = 0.0
    reached_s: float = 0.0
    ended_at: float | None = None


@dataclass(kw_only=True)
class Trainer:
    """The program of a training's pods.

    Attributes:
        storage: Where jobs lie.
        agenda: The cluster's time.
        work_s: Seconds that the whole training takes.
        checkpoint_s: Seconds between checkpoints.
        flaw: What is wrong with the job itself.
        num_flawed: Runs that it strikes, the first ones.
        began: Called with each new run.
        finished: Called when a result is written; the process still lives then.
        runs: All of them, in order.
        lines: Each line that was printed; no two are equal.
    """

    storage: Storage
    agenda: Agenda
    work_s: float = 600.0
    checkpoint_s: float = 60.0
    flaw: Flaw = "none"
    num_flawed: int = 1000
    began: Callable[[Run], None] = lambda _run: None
    finished: Callable[[Run], None] = lambda _run: None
    runs: list[Run] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def is_hopeless(self) -> bool:
        """Whether no number of runs gives a result."""
        return self.flaw != "none" and self.num_flawed > 1

    @property
    def lost_s(self) -> list[float]:
        """Return the seconds of work that each run had to do again after the one before."""
        return [max(0.0, before.reached_s - after.from_s) for before, after in pairwise(self.runs)]

    @property
    def busy_s(self) -> float:
        """Seconds that trainers ran, all together."""
        return sum((run.ended_at or self.agenda.at) - run.began_at for run in self.runs)

    @property
    def num_overlaps(self) -> int:
        """Times that a run began while another one of the same job still ran."""
        return sum(
            other.began_at <= run.began_at < (other.ended_at or float("inf"))
            for number, run in enumerate(self.runs)
            for other in self.runs[:number]
        )

    def __call__(self, pod: dict[str, Any], container: dict[str, Any]) -> Steps:
        """Train; a `Program`."""
        arguments = [*(container.get("command") or []), *(container.get("args") or [])]
        job = load_job(arguments[arguments.index("--job") + 1], storage=self.storage)
        run = Run(job_key=job.key, pod=pod["metadata"]["name"], began_at=self.agenda.at)
        try:
            yield from self._say(f"job {job.key} begins in {run.pod}")
            if read_result(job, storage=self.storage):
                yield from self._say(f"job {job.key} is done already")
                return ExitCode.DONE
            self.runs.append(run)
            self.began(run)
            return (yield from self._train(job, run))
        finally:
            run.ended_at = self.agenda.at

    def _train(self, job: Job, run: Run) -> Steps:
        run.from_s = run.reached_s = self._checkpoint(job)
        try:
            yield _READ_S
            flaw = self.flaw if len(self.runs) <= self.num_flawed else "none"
            if flaw in ("user_error", "bad_data"):
                yield from self._say(f"error: {flaw}")
                return ExitCode.BAD_JOB if flaw == "user_error" else ExitCode.BAD_DATA
            while run.reached_s < self.work_s:
                yield from self._work(run)
                self._save(job, run)
                yield from self._say(f"{run.reached_s:.0f} of {self.work_s:.0f} s are done")
            yield _EXPORT_S
            if flaw == "no_result":
                return ExitCode.DONE
            write_result(job, _result(job), contents={}, storage=self.storage)
            self.finished(run)
            yield from self._say("done")
        except Terminated:
            return (yield from self._interrupted(job, run))
        yield from _whatever_is_asked(_CLOSE_S)
        return ExitCode.DONE

    def _work(self, run: Run) -> Steps:
        """Work until the next checkpoint is due; what was done counts even when it ends early."""
        since, before = self.agenda.at, run.reached_s
        try:
            yield min(self.checkpoint_s, self.work_s - run.reached_s)
        finally:
            run.reached_s = before + self.agenda.at - since
        return 0

    def _interrupted(self, job: Job, run: Run) -> Steps:
        yield from _whatever_is_asked(_SAVE_S)
        self._save(job, run)
        yield from self._say("interrupted; a checkpoint is saved")
        return ExitCode.INTERRUPTED

    def _checkpoint(self, job: Job) -> float:
        file = Path(job.checkpoint_uri, _PROGRESS_FILE)
        return float(file.read_text()) if file.exists() else 0.0

    def _save(self, job: Job, run: Run) -> None:
        file = Path(job.checkpoint_uri, _PROGRESS_FILE)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(run.reached_s))

    def _say(self, line: str) -> Steps:
        self.lines.append(f"line {len(self.lines)}: {line}")
        yield self.lines[-1]
        return 0


def _whatever_is_asked(wait_s: float) -> Steps:
    """Wait; a second SIGTERM changes nothing."""
    try:
        yield wait_s
    except Terminated:
        yield wait_s
    return 0


def _result(job: Job) -> Result:
    return Result(
        job_key=job.key,
        job_hash=job.hash,
        files={},
        epochs=(Epoch(train_loss=0.5, validation_loss=0.6),),
        best_epoch=0,
        num_train_rows=1000,
        num_validation_rows=100,
        baseline=0.2,
        device="cuda",
        packages={},
        seconds={"fit": 600.0},
        finished_at_ms=1_700_000_000_000,
    )
