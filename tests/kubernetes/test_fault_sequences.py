"""The training operator under faults: it never lies, leaves nothing behind, starts nothing twice, loses little work."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.kubernetes.befalls import FLAWS, fail_a_call, ways_to_fail
from tests.kubernetes.fault_report import report, run_all
from tests.kubernetes.operators_under_test import forgetful, plain, tradewind
from tests.kubernetes.sequences import KINDS, measure, run_sequence
from tests.kubernetes.trainer import Trainer
from tests.kubernetes.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import BaseOperator

    from include.training.job import Job
    from tests.kubernetes.sequences import Ending, Extent

WRITE_TO = os.environ.get("TRADEWIND_BENCH_TO")
NUM_SEQUENCES = 1000
SEEDS = {"worker_killed": 111}
"""Here the worker dies between the pod's creation and its own note of it; other kinds have the first seed of theirs."""
CALIBRATION = dict[object, "Extent"]


@pytest.fixture(scope="module")
def extents() -> CALIBRATION:
    return {}


@pytest.fixture
def run(tmp_path: Path, extents: CALIBRATION) -> Callable[..., Ending]:
    """Return a function that runs a sequence with an operator; the lake is a new one each time."""

    def run(make_operator: Callable[[Job], BaseOperator], kind: str, seed: int) -> Ending:
        if make_operator not in extents:
            extents[make_operator] = measure(make_operator, tmp_path / "undisturbed")
        return run_sequence(seed, make_operator, tmp_path / f"{kind}-{seed}", extents[make_operator], kind=kind)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_befalls_a_training_its_task_tells_the_truth(kind: str, run: Callable[..., Ending]) -> None:
    ending = run(tradewind, kind, SEEDS.get(kind, KINDS.index(kind)))
    assert kind == "nothing" or ending.happened
    assert (ending.state, ending.wrong) == (ending.wanted, "")
    assert (ending.num_orphans, ending.num_duplicates, ending.num_overlaps) == (0, 0, 0)
    assert ending.lost_s <= Trainer.checkpoint_s
    assert ending.num_lines_repeated == 0
    if kind in ("user_error", "bad_data", "out_of_memory"):
        assert ending.num_tries == 1
    if kind not in (*FLAWS, "cancelled", "worker_killed", "worker_stopped"):
        assert ending.num_tries == 1 + ("worker_killed" in ending.happened)


def test_a_log_that_breaks_off_is_read_to_its_end(run: Callable[..., Ending]) -> None:
    ending = run(tradewind, "log_cut", 18)
    assert ending.num_lines > 5
    assert (ending.num_lines_missing, ending.num_lines_repeated) == (0, 0)


def test_what_is_looked_for_can_be_found(run: Callable[..., Ending]) -> None:
    """The same faults with operators that are known to fall for them."""
    assert run(plain, "exit_without_result", 14).wrong == "success_without_result"
    assert run(plain, "interrupted_often", 15).wrong == "failed_but_success_was_right"
    assert run(plain, "user_error", 12).num_tries == 4
    assert run(forgetful, "worker_killed", 1).num_duplicates == 1


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_an_error_at_each_call_is_got_over(tmp_path: Path, extents: CALIBRATION) -> None:
    """Each call of the workers, and the triggerer's first ones: those of later polls are the same."""
    extent = measure(tradewind, tmp_path / "undisturbed")
    calls = [(stage, min(number, 6)) for stage, number in extent.calls.items()]
    places = [(stage, call) for stage, number in calls for call in range(number)]
    for number, (stage, call) in enumerate(places):
        for way in range(len(ways_to_fail(Random(0)))):
            folder, fault = tmp_path / f"{number}-{way}", ways_to_fail(Random(0))[way]
            with World(folder=folder, make_operator=tradewind) as world:
                world.trainer.work_s = 60.0
                fault.skip = call
                fail_a_call(world, stage, fault)
                state = world.run()
                seen = (state, world.has_result, world.airflow.num_tries, world.num_duplicates, world.cluster.live_pods)
                assert fault.times == 0, "the call was not made"
                assert seen == ("success", True, 1, 0, []), f"{stage} call {call}: {fault}"
            shutil.rmtree(folder)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_a_thousand_fault_sequences() -> None:
    began = time.monotonic()
    found = run_all(NUM_SEQUENCES, ("tradewind", "plain"))
    told = report(found, wall_s=time.monotonic() - began)
    if WRITE_TO:
        Path(WRITE_TO).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    ours = told["total"]["tradewind"]
    assert ours["num_sequences"] == NUM_SEQUENCES
    assert told["seeds_not_right"]["tradewind"] == {}
    assert ours["max_lost_s"] <= Trainer.checkpoint_s
