"""Trainers in several pods that train one network: they begin together, and what ends one of them ends all.

As `include/training/ranks.py` has it: each step waits for all, the first process writes, a stop that any of them hears
is heard by all at the next step, and a process that is lost is noticed by the others, at once if its connections end
and after `TIMEOUT_S` if its node is merely not heard any more. torchrun makes each exit code a 1, and the trainer
leaves its own in the container's status.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from include.training.exit_codes import ExitCode
from tests.kubernetes.containers import Terminated

if TYPE_CHECKING:
    from include.training.job import Job
    from tests.kubernetes.containers import Steps
    from tests.kubernetes.trainer import Run, Trainer

READ_S = 5.0
EXPORT_S = 5.0
CLOSE_S = 3.0
STEP_S = 1.0
MEET_S = 600.0
"""torchrun's own patience with pods that do not come."""
TIMEOUT_S = 300.0


class Told(int):
    """An exit code as torchrun gives it, with the message that the trainer has left."""

    message: str = ""

    @classmethod
    def of(cls, code: int) -> Self:
        """Return what a container's status says of a trainer's exit code."""
        told = cls(1 if code else 0)
        told.message = json.dumps({"exit_code": int(code), "message": "told by the trainer"}) if code else ""
        return told


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which process of a training a pod is.

    Attributes:
        gang: All that train together.
        rank: Its number.
        size: How many there are.
    """

    gang: str
    rank: int = 0
    size: int = 1


@dataclass(kw_only=True)
class Gang:
    """Processes that train together.

    Attributes:
        size: How many there have to be.
        meet_s: For how long those who are there wait for the others.
        pods: Name of each one's pod, by rank.
        run: What they do, since all have been there.
        is_asked: Whether one of them was told to end.
        has_lost: Whether one of them ended before its time.
        is_done: Whether the first one has come to the end of the work.
        num_left: How many still run.
    """

    size: int
    meet_s: float = MEET_S
    pods: dict[int, str] = field(default_factory=dict)
    run: Run | None = None
    is_asked: bool = False
    has_lost: bool = False
    is_done: bool = False
    num_left: int = 0

    def joined(self, rank: int, pod: str) -> None:
        """Count one that has come."""
        self.pods[rank] = pod
        self.num_left += 1

    def ended(self, at: float) -> None:
        """Count one that has gone."""
        self.num_left -= 1
        self.has_lost = self.has_lost or not self.is_done
        if self.run is not None and not self.num_left:
            self.run.ended_at = at


def together(trainer: Trainer, gang: Gang, rank: int, pod: str, job: Job) -> Steps:
    """Train as one of several; a part of a `Program`."""
    gang.joined(rank, pod)
    try:
        if not (yield from _meet(trainer, gang, rank, job)):
            return 1  # torchrun itself has given up: nobody leaves a message
        code = yield from _train(trainer, gang, rank, job)
        yield from trainer.say(f"rank {rank} ends with {int(code)}")
        return Told.of(code)
    except Terminated:
        return 1  # so does torchrun before it has started anything
    finally:
        gang.ended(trainer.agenda.at)


def _meet(trainer: Trainer, gang: Gang, rank: int, job: Job) -> Steps:
    """Wait for the others; return whether all are there."""
    waited_s = 0.0
    while gang.run is None:
        if len(gang.pods) == gang.size and rank == 0:
            gang.run = trainer.begin(job, tuple(gang.pods[number] for number in range(gang.size)))
        elif waited_s >= gang.meet_s:
            return False
        else:
            waited_s += STEP_S
            yield STEP_S
    return True


def _train(trainer: Trainer, gang: Gang, rank: int, job: Job) -> Steps:
    run = gang.run or trainer.runs[-1]
    try:
        yield READ_S
        if code := (yield from trainer.refuse()):
            return code
        code = yield from (_lead(trainer, gang, run, job) if rank == 0 else _follow(trainer, gang, run))
    except Terminated:
        gang.is_asked = True
        code = ExitCode.INTERRUPTED
        if rank == 0:
            yield from _leave(trainer, gang, run, job)
        else:
            yield from whatever_is_asked(trainer.save_s)
    return code


def _lead(trainer: Trainer, gang: Gang, run: Run, job: Job) -> Steps:
    """Work step by step as long as all are there, and write."""
    saved_s, stalled_s = run.reached_s, 0.0
    while run.reached_s < trainer.work_s:
        yield STEP_S
        if gang.is_asked:
            return (yield from _leave(trainer, gang, run, job))
        if not _is_whole(trainer, run):
            stalled_s += STEP_S
            if stalled_s >= TIMEOUT_S:
                return ExitCode.INTERRUPTED
            continue
        if gang.has_lost:
            return ExitCode.INTERRUPTED
        run.reached_s, stalled_s = min(trainer.work_s, run.reached_s + STEP_S), 0.0
        if run.reached_s - saved_s >= trainer.checkpoint_s or run.reached_s == trainer.work_s:
            saved_s = run.reached_s
            yield from trainer.save(job, run)
    gang.is_done = True
    yield EXPORT_S
    yield from trainer.finish(job, run)
    yield from whatever_is_asked(CLOSE_S)
    return ExitCode.DONE


def _follow(trainer: Trainer, gang: Gang, run: Run) -> Steps:
    """Do as the first one does."""
    stalled_s = 0.0
    while not gang.is_done:
        yield STEP_S
        is_whole = _is_whole(trainer, run)
        stalled_s = 0.0 if is_whole else stalled_s + STEP_S
        if gang.is_asked:
            yield from whatever_is_asked(trainer.save_s)
            return ExitCode.INTERRUPTED
        if stalled_s >= TIMEOUT_S or (gang.has_lost and is_whole):
            return ExitCode.INTERRUPTED
    return ExitCode.DONE


def _leave(trainer: Trainer, gang: Gang, run: Run, job: Job) -> Steps:
    """Save a checkpoint, unless nobody is left to agree on it."""
    gang.is_asked = True
    yield from whatever_is_asked(trainer.save_s)
    trainer.keep(job, run)
    yield from trainer.say("interrupted; a checkpoint is saved")
    return ExitCode.INTERRUPTED


def _is_whole(trainer: Trainer, run: Run) -> bool:
    """Return whether all can reach each other."""
    return all(trainer.is_heard(pod) for pod in run.pods)


def whatever_is_asked(wait_s: float) -> Steps:
    """Wait; a second SIGTERM changes nothing."""
    try:
        yield wait_s
    except Terminated:
        yield wait_s
    return 0
