"""The training operator under faults: it never lies, leaves nothing behind, starts nothing twice, loses little work."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tests.fake_airflow import fake_airflow
from tests.kubernetes.befalls import FLAWS, PERSONS, fail_a_call, ways_to_fail
from tests.kubernetes.fault_report import BASELINE, BEGIN, END, PAGE, RUNNERS, figures, report, run_all, write
from tests.kubernetes.operators_under_test import forgetful, plain, torchrun, tradewind, trainjob
from tests.kubernetes.sequences import KINDS, measure, run_sequence
from tests.kubernetes.trainer import Trainer
from tests.kubernetes.world import MODEL, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow.sdk import BaseOperator

    from include.training.job import Job
    from tests.fake_airflow import FakeAirflow
    from tests.kubernetes.sequences import Ending, Extent

FILE = Path(__file__).parents[2] / "benchmarks" / "training_faults.json"
WRITE_TO = os.environ.get("TRADEWIND_BENCH_TO")
NUM_SEQUENCES = 1000
SEEDS = {"worker_killed": 111}
"""Here the worker dies between the pod's creation and its own note of it; other kinds have the first seed of theirs."""
OF_SEVERAL_PODS = [
    (torchrun, "evicted"),
    (torchrun, "node_lost"),
    (torchrun, "node_stays_lost"),
    (torchrun, "worker_killed"),
    (trainjob, "preempted"),
    (trainjob, "cleared"),
    (trainjob, "bad_data"),
    (trainjob, "node_stays_lost"),
]
UNHEARD = ("cancelled_unheard", 79)
CALIBRATION = dict[object, "Extent"]


@pytest.fixture(scope="module")
def airflow_api() -> Iterator[FakeAirflow]:
    with fake_airflow(MODEL) as found:
        yield found


@pytest.fixture(scope="module")
def extents() -> CALIBRATION:
    return {}


@pytest.fixture
def run(tmp_path: Path, extents: CALIBRATION, airflow_api: FakeAirflow) -> Callable[..., Ending]:
    """Return a function that runs a sequence with an operator; the lake is a new one each time."""

    def run(make_operator: Callable[[Job], BaseOperator], kind: str, seed: int) -> Ending:
        if make_operator not in extents:
            extents[make_operator] = measure(make_operator, tmp_path / "undisturbed")
        folder, extent = tmp_path / f"{kind}-{seed}-{len(list(tmp_path.iterdir()))}", extents[make_operator]
        return run_sequence(seed, make_operator, folder, extent, kind=kind, airflow_api=airflow_api)

    return run


def tells_the_truth(ending: Ending) -> None:
    assert ending.kind == "nothing" or ending.happened
    assert (ending.state, ending.wrong) == (ending.wanted, "")
    assert (ending.num_orphans, ending.num_duplicates, ending.num_overlaps) == (0, 0, 0)
    assert ending.lost_s <= Trainer.checkpoint_s
    assert ending.num_lines_repeated == 0
    if ending.kind in ("user_error", "bad_data", "out_of_memory"):
        assert ending.num_tries == 1
    if ending.kind not in (*FLAWS, *PERSONS):
        assert ending.num_retries_used == 0


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_befalls_a_training_its_task_tells_the_truth(kind: str, run: Callable[..., Ending]) -> None:
    tells_the_truth(run(tradewind, kind, SEEDS.get(kind, KINDS.index(kind))))


@pytest.mark.parametrize(("operator", "kind"), OF_SEVERAL_PODS)
def test_so_it_does_of_a_training_in_several_pods(operator: Any, kind: str, run: Callable[..., Ending]) -> None:
    tells_the_truth(run(operator, kind, KINDS.index(kind)))


def test_what_nobody_ends_is_the_janitors(run: Callable[..., Ending]) -> None:
    """The triggerer is gone when a person fails the task, so no `on_kill` runs; nothing else would end the pods."""
    ending = run(torchrun, *UNHEARD)
    assert (ending.state, ending.num_left, ending.num_orphans) == ("failed", 2, 0)
    assert run(plain, *UNHEARD).num_orphans == 1


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


def test_the_page_has_the_figures_of_the_last_run() -> None:
    told = json.loads(FILE.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0] == f"\n\n{figures(told)}"
    assert all(told["seeds_not_right"][runner] == {} for runner in RUNNERS)


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
    found = run_all(NUM_SEQUENCES, (*RUNNERS, BASELINE))
    told = report(found, wall_s=time.monotonic() - began)
    if WRITE_TO:
        write(told, Path(WRITE_TO))
    for runner in RUNNERS:
        ours = told["total"][runner]
        assert ours["num_sequences"] == NUM_SEQUENCES
        assert told["seeds_not_right"][runner] == {}
        assert ours["max_lost_s"] <= Trainer.checkpoint_s
        assert ours["user_retries_used_by_machines"] == 0
        assert ours["num_lines_repeated"] == 0
