"""What scripted pods run in the place of the trainer: the same promises, without the hours.

It reads the real job file, goes on at its checkpoint, writes one every `checkpoint_s` seconds, writes the real
`result.json` last, and on SIGTERM saves a checkpoint and exits 75, as `python -m include.training` does. In several
pods (`gang`) it begins when all are there, the first one writes, and a stop or a loss of one ends all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from include.training.checkpoints import MANIFEST, Checkpoints
from include.training.exit_codes import ExitCode
from include.training.job import load_job
from include.training.result import Epoch, Result, read_result, write_result
from tests.kubernetes.containers import Terminated
from tests.kubernetes.gang import CLOSE_S, EXPORT_S, MEET_S, READ_S, Gang, Place, together, whatever_is_asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage
    from include.training.job import Job
    from tests.kubernetes.clock import Agenda
    from tests.kubernetes.containers import Steps

Flaw = Literal["none", "user_error", "bad_data", "no_result"]
"""`no_result`: it exits 0 without having written its result, as behind a shell's pipe or an upload that was lost."""


@dataclass(kw_only=True)
class Run:
    """One start of a trainer: a process, or those of a gang.

    Attributes:
        job_key: What it trained.
        pods: Names of its pods, by rank.
        began_at: When it began.
        from_s: Seconds of work that its checkpoint spared it.
        reached_s: Seconds of work that were done when it ended, whether saved or not.
        ended_at: When it ended.
    """

    job_key: str
    pods: tuple[str, ...]
    began_at: float
    from_s: float = 0.0
    reached_s: float = 0.0
    ended_at: float | None = None

    @property
    def pod(self) -> str:
        """Name of the first pod."""
        return self.pods[0]


@dataclass(kw_only=True)
class Trainer:
    """The program of a training's pods.

    Attributes:
        storage: Where jobs lie.
        agenda: The cluster's time.
        work_s: Seconds that the whole training takes.
        checkpoint_s: Seconds between checkpoints.
        save_s: Seconds that it takes to save one and end, when it is told to end.
        place_of: Which of how many processes a pod is.
        is_heard: Whether a pod's node is connected to the others.
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
    save_s: float = 2.0
    place_of: Callable[[dict[str, Any]], Place] = lambda pod: Place(gang=pod["metadata"]["uid"])
    is_heard: Callable[[str], bool] = lambda _pod: True
    flaw: Flaw = "none"
    num_flawed: int = 1000
    began: Callable[[Run], None] = lambda _run: None
    finished: Callable[[Run], None] = lambda _run: None
    runs: list[Run] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    _gangs: dict[str, Gang] = field(default_factory=dict)

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
        (meet_s,) = [float(each.partition("timeout=")[2]) for each in arguments if "--rdzv-conf" in each] or [MEET_S]
        job = load_job(arguments[arguments.index("--job") + 1], storage=self.storage)
        name, place = pod["metadata"]["name"], self.place_of(pod)
        yield from self.say(f"job {job.key} begins in {name}")
        if read_result(job, storage=self.storage):
            yield from self.say(f"job {job.key} is done already")
            return ExitCode.DONE
        if place.size > 1:
            gang = self._gangs.setdefault(place.gang, Gang(size=place.size, meet_s=meet_s))
            return (yield from together(self, gang, place.rank, name, job))
        run = self.begin(job, (name,))
        try:
            return (yield from self._train(job, run))
        finally:
            run.ended_at = self.agenda.at

    def begin(self, job: Job, pods: tuple[str, ...]) -> Run:
        """Return a new run, which goes on at the checkpoint."""
        run = Run(job_key=job.key, pods=pods, began_at=self.agenda.at)
        run.from_s = run.reached_s = self._checkpoint(job)
        self.runs.append(run)
        self.began(run)
        return run

    def _train(self, job: Job, run: Run) -> Steps:
        try:
            yield READ_S
            if code := (yield from self.refuse()):
                return code
            while run.reached_s < self.work_s:
                yield from self._work(run)
                yield from self.save(job, run)
            yield EXPORT_S
            yield from self.finish(job, run)
        except Terminated:
            return (yield from self._interrupted(job, run))
        yield from whatever_is_asked(CLOSE_S)
        return ExitCode.DONE

    def refuse(self) -> Steps:
        """Return the exit code of a job that cannot be trained; 0: it can."""
        if self._flaw not in ("user_error", "bad_data"):
            return 0
        yield from self.say(f"error: {self._flaw}")
        return ExitCode.BAD_JOB if self._flaw == "user_error" else ExitCode.BAD_DATA

    def save(self, job: Job, run: Run) -> Steps:
        """Save a checkpoint, and say how far it is."""
        self.keep(job, run)
        yield from self.say(f"{run.reached_s:.0f} of {self.work_s:.0f} s are done")
        return 0

    def finish(self, job: Job, run: Run) -> Steps:
        """Write the result, unless this run is one that does not."""
        if self._flaw != "no_result":
            write_result(job, _result(job), contents={}, storage=self.storage)
            self.finished(run)
            yield from self.say("done")
        return 0

    @property
    def _flaw(self) -> Flaw:
        """What is wrong with the present run."""
        return self.flaw if len(self.runs) <= self.num_flawed else "none"

    def _work(self, run: Run) -> Steps:
        """Work until the next checkpoint is due; what was done counts even when it ends early."""
        since, before = self.agenda.at, run.reached_s
        try:
            yield min(self.checkpoint_s, self.work_s - run.reached_s)
        finally:
            run.reached_s = before + self.agenda.at - since
        return 0

    def _interrupted(self, job: Job, run: Run) -> Steps:
        yield from whatever_is_asked(self.save_s)
        self.keep(job, run)
        yield from self.say("interrupted; a checkpoint is saved")
        return ExitCode.INTERRUPTED

    def _checkpoint(self, job: Job) -> float:
        newest = Checkpoints.of_job(job, storage=self.storage).newest_uri()
        return float(Path(newest, MANIFEST).read_text()) if newest else 0.0

    def keep(self, job: Job, run: Run) -> None:
        """Save a checkpoint."""
        file = Path(job.checkpoint_uri, f"{run.reached_s:010.0f}", MANIFEST)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(run.reached_s))

    def say(self, line: str) -> Steps:
        """Print a line."""
        self.lines.append(f"line {len(self.lines)}: {line}")
        yield self.lines[-1]
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
