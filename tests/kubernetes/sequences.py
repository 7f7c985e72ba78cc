"""Fault sequences: what befalls one training from its first try to its last, drawn from a seed, and how it ended."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from operators.retries import MachinesApart
from tests.kubernetes.befalls import DISRUPTIONS, FAULTS, FLAWS
from tests.kubernetes.janitor import HOUR_S, MINUTE_S
from tests.kubernetes.trainer import Trainer
from tests.kubernetes.world import START, World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.sdk import BaseOperator

    from include.training.job import Job
    from tests.fake_airflow import FakeAirflow
    from tests.kubernetes.fates import Process, Stage

KINDS = tuple(FAULTS)
_WORK_S = (180.0, 300.0, 420.0)
_SAVE_S = (2.0, 20.0, 55.0)
"""Up to nearly the grace of the profiles."""
_SECOND_SHARE = 0.4
_SECONDS = (*DISRUPTIONS, "worker_killed", "triggerer_killed", "api_error")
"""What may come on top."""
_ALONE = (*FLAWS, "nothing", "interrupted_often", "profile_gone")
_WISHES = {
    "cancelled": "failed",
    "cancelled_unheard": "failed",
    "run_deleted": "deleted",
    "run_deleted_unheard": "deleted",
}
"""What a task is when a person has wished so."""
_BEFORE_THE_JANITOR_S = 480.0
_GPUS = (4, 4, 4, 4, 4)
"""Each node has room for one of two pods: two trainings of two pods would have room, and one node may be lost."""
_STORED = "tradewind_failures"


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How long the processes of an undisturbed training are.

    Attributes:
        boundaries: Contacts with the outside, by stage.
        calls: Calls of the API, by stage.
    """

    boundaries: dict[Stage, int]
    calls: dict[Stage, int]

    @classmethod
    def of(cls, processes: list[Process]) -> Extent:
        """Return what an undisturbed training's processes have shown."""
        return cls(
            boundaries={each.stage: each.boundaries for each in processes},
            calls={each.stage: each.calls[1] - each.calls[0] for each in processes},
        )

    def of_work(self, work_s: float) -> Extent:
        """Return how long they are for a training of another length: the triggerer's polls grow with it."""
        share = work_s / Trainer.work_s
        return Extent(
            boundaries={**self.boundaries, "watch": int(self.boundaries.get("watch", 0) * share)},
            calls={**self.calls, "watch": int(self.calls.get("watch", 0) * share)},
        )


@dataclass(kw_only=True)
class Ending:
    """How a sequence ended.

    Attributes:
        seed: It decides all that was drawn.
        kind: The fault that it is about.
        second: Another one on top, if any.
        happened: Faults that struck: a process that ended earlier cannot be killed.
        state: Of the task in the end: `success`, `failed`, `deleted` with its Dag run, `stuck`.
        wanted: What it had to be.
        has_result: Whether a whole result of the job is there.
        num_tries: Tries of the task.
        num_retries_used: Of the user's.
        num_left: Pods that still live three minutes after the task has ended: the janitor's.
        num_orphans: Pods that still live when the janitor has passed after that.
        num_duplicates: How often a second live pod of the job came to be beside the first.
        num_overlaps: How often a trainer began while another one of the same job still ran on some node.
        lost_s: The most work that one run had to do again, in seconds.
        busy_s: Seconds that trainers ran, all together.
        work_s: Seconds that the training takes undisturbed.
        took_s: Simulated seconds from the first try to the end.
        num_calls: Calls of Kubernetes' API.
        num_lines: Lines that trainers had printed when the task ended.
        num_lines_missing: Those that are not in the task's log.
        num_lines_repeated: Those that are in it more than once.
        errors: What the tries raised.
    """

    seed: int
    kind: str
    second: str = ""
    happened: tuple[str, ...] = ()
    state: str = ""
    wanted: str = "success"
    has_result: bool = False
    num_tries: int = 0
    num_retries_used: int = 0
    num_left: int = 0
    num_orphans: int = 0
    num_duplicates: int = 0
    num_overlaps: int = 0
    lost_s: float = 0.0
    busy_s: float = 0.0
    work_s: float = 0.0
    took_s: float = 0.0
    num_calls: int = 0
    num_lines: int = 0
    num_lines_missing: int = 0
    num_lines_repeated: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> str:
        """Return in a word how the last state is wrong; empty: it is right."""
        if self.state == "success" and not self.has_result:
            return "success_without_result"
        if self.state == self.wanted:
            return ""
        if self.state == "failed" and self.has_result:
            return "failed_with_result"
        return f"{self.state}_but_{self.wanted}_was_right"

    @property
    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return {**asdict(self), "wrong": self.wrong}


def measure(make_operator: Callable[[Job], BaseOperator], folder: Path) -> Extent:
    """Return how long an undisturbed training's processes are."""
    with World(folder=folder, make_operator=make_operator, gpus=_GPUS) as world:
        world.run()
        return Extent.of(world.airflow.processes)


def run_sequence(
    seed: int,
    make_operator: Callable[[Job], BaseOperator],
    folder: Path,
    extent: Extent,
    *,
    airflow_api: FakeAirflow,
    kind: str = "",
) -> Ending:
    """Run one sequence; its kind goes round with the seed."""
    kind = kind or KINDS[seed % len(KINDS)]
    draw = random.Random(f"{kind} {seed}")
    ending = Ending(seed=seed, kind=kind, wanted="failed" if kind == "out_of_memory" else "success")
    start_at = _shortly_before_the_janitor(seed)
    world = World(folder=folder, make_operator=make_operator, airflow_api=airflow_api, start_at=start_at, gpus=_GPUS)
    with world:
        world.trainer.work_s = draw.choice(_WORK_S)
        world.trainer.save_s = random.Random(f"save {seed}").choice(_SAVE_S)
        extent = extent.of_work(world.trainer.work_s)
        happened: list[str] = []
        FAULTS[kind](world, draw, extent, lambda: happened.append(kind))
        if kind not in _ALONE and (draw.random() < _SECOND_SHARE or kind == "clock_skew"):
            ending.second = draw.choice(_SECONDS)
            FAULTS[ending.second](world, draw, extent, lambda: happened.append(ending.second))
        ending.state = world.run()
        ending.happened = tuple(happened)
        _look_around(world, ending)
    return ending


def _shortly_before_the_janitor(seed: int) -> float:
    """Return when to begin, so that the janitor passes while the training goes on."""
    return START - START % HOUR_S + MINUTE_S - random.Random(f"janitor {seed}").random() * _BEFORE_THE_JANITOR_S


def _retries_used(world: World) -> int:
    """Return how many of the user's retries are gone: who keeps no count of them has one less after each try."""
    if not isinstance(world.airflow.make_task().retry_policy, MachinesApart):
        return world.airflow.num_tries - 1
    kept = [state.get(_STORED) for state in world.airflow.supervisor.task_state.values()]
    return max((len(each["tries"]) for each in kept if each), default=0)


def _look_around(world: World, ending: Ending) -> None:
    trainer, airflow = world.trainer, world.airflow
    if trainer.is_hopeless:
        ending.wanted = "failed"
    if ending.kind in ending.happened:
        ending.wanted = _WISHES.get(ending.kind, ending.wanted)
    ending.has_result = world.has_result
    ending.num_tries = airflow.num_tries
    ending.num_retries_used = _retries_used(world)
    ending.num_left, ending.num_orphans = world.num_left, world.num_live
    ending.num_duplicates = world.num_duplicates
    ending.num_overlaps = trainer.num_overlaps
    ending.lost_s = round(max(trainer.lost_s, default=0.0), 1)
    ending.busy_s, ending.work_s = round(world.busy_s, 1), trainer.work_s
    ending.took_s = round(airflow.ended_at_s, 1)
    ending.num_calls = len(world.cluster.calls)
    seen = [sum(event.endswith(line) for event in world.events) for line in world.lines]
    ending.num_lines, ending.num_lines_missing = len(seen), seen.count(0)
    ending.num_lines_repeated = sum(number > 1 for number in seen)
    ending.errors = [error[:500] for error in airflow.errors]
