"""Operator, cluster and the real trainer together: a training that is interrupted ends as if nothing had happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from include.lake.storage import Storage
from include.training.exit_codes import ExitCode
from include.training.result import read_result
from tests.kubernetes.operators_under_test import tradewind
from tests.kubernetes.real_trainer import RealTrainer
from tests.kubernetes.world import World
from tests.snapshots import FAST, small_table, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARAMS = {**FAST, "max_epochs": 60, "patience_epochs": 60, "batch_size": 64}
STRIKE_AT = "epoch 3:"


def train(folder: Path, befall: Callable[[World, str], None] | None = None) -> tuple[World, RealTrainer]:
    """Train in a folder; what befalls the first run strikes when it prints the line."""
    snapshot = write_snapshot(Storage(root=str(folder)), small_table(2000))
    with World(folder=folder, make_operator=tradewind, snapshot=snapshot, params=PARAMS) as world:

        def said(run: int, pod: str, line: str) -> None:
            if befall is not None and run == 1 and line.startswith(STRIKE_AT):
                world.cluster.store.agenda.after(1, lambda: befall(world, pod))

        trainer = world.kubelets.program = RealTrainer(said=said)
        state = world.run()
    assert state == "success", "\n".join(world.events)
    return world, trainer


def test_an_evicted_trainer_saves_and_the_next_pod_goes_on_there(tmp_path: Path) -> None:
    world, trainer = train(tmp_path, lambda world, pod: world.cluster.evict(pod))
    assert trainer.exit_codes == [ExitCode.INTERRUPTED, ExitCode.DONE]
    assert world.airflow.num_tries == 1
    assert world.has_result
    epochs = [event for event in world.events if "epoch" in event]
    assert sum("epoch 3:" in event for event in epochs) == 1, "the second run begins where the first one stopped"
    assert (world.num_duplicates, world.cluster.live_pods) == (0, [])


@pytest.mark.chaos
def test_a_killed_trainer_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, _ = train(tmp_path / "undisturbed")
    killed, trainer = train(tmp_path / "killed", lambda world, pod: world.cluster.remove(pod))
    assert (trainer.num_runs, trainer.exit_codes) == (2, [ExitCode.DONE])
    wanted, found = (read_result(world.job, storage=world.storage) for world in (undisturbed, killed))
    assert wanted is not None
    assert found is not None
    assert found.files == wanted.files
