"""The training command under the real torchrun: stopped by the signal that a pod gets, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from include.lake.storage import Storage
from include.training.checkpoints import Checkpoints
from include.training.result import read_result
from tests.snapshots import small_job, small_table

if TYPE_CHECKING:
    from include.training.job import Job

ROOT = Path(__file__).parents[3]


def start(job: Job) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    line += ["-m", "include.training", "--job", job.uri]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def end(child: subprocess.Popen[str]) -> list[str]:
    said, _ = child.communicate(timeout=120)
    assert child.returncode == 0, said
    return said.splitlines()


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_sigterm_to_torchrun_saves_a_checkpoint_and_the_next_start_ends_as_if_undisturbed(tmp_path: Path) -> None:
    storages = [Storage(root=str(tmp_path / name)) for name in ("undisturbed", "stopped")]
    params: dict[str, Any] = {
        "batch_size": 64,
        "max_epochs": 30,
        "patience_epochs": 30,
        "learning_rate": 1e-4,
        "dropout": 0.2,
    }
    undisturbed, stopped = [small_job(storage, table=small_table(600), **params) for storage in storages]
    end(start(undisturbed))
    child = start(stopped)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("epoch 3:"):
            child.send_signal(signal.SIGTERM)
            break
    child.communicate(timeout=60)
    assert child.returncode != 0
    assert read_result(stopped, storage=storages[1]) is None
    (step,) = Checkpoints.of_job(stopped, storage=storages[1]).steps()
    assert step >= 24
    assert any(line.startswith("continuing after epoch ") for line in end(start(stopped)))
    found, wanted = read_result(stopped, storage=storages[1]), read_result(undisturbed, storage=storages[0])
    assert found is not None
    assert wanted is not None
    assert (found.files, found.epochs) == (wanted.files, wanted.epochs)
    assert found.machine["world_size"] == "2"
