"""One of two processes in a container fails: what the container says, and what is made of it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from include.lake.storage import Storage
from include.models.flight_delays import network
from include.training import command
from include.training.exit_codes import ExitCode
from include.training.failures import Evidence, FailureKind, classify
from tests.include.training.forked_ranks import become, start
from tests.snapshots import small_job, small_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from include.training.job import Job

FAILS_AT = 12


class Failing(torch.nn.Module):
    """A network that does otherwise at one of its steps."""

    def __init__(self, network: torch.nn.Module, fail: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.fail, self.num_steps = network, fail, 0

    def forward(self, categorical_BC: torch.Tensor, numeric_BN: torch.Tensor) -> torch.Tensor:
        raw_B: torch.Tensor = self.network(categorical_BC, numeric_BN)
        self.num_steps += self.training
        return self.fail(raw_B) if self.training and self.num_steps == FAILS_AT else raw_B


def refuse_memory(_raw_B: torch.Tensor) -> torch.Tensor:
    raise MemoryError("no room")


def divide(_raw_B: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError("in the model's code")


def lose_numbers(raw_B: torch.Tensor) -> torch.Tensor:
    return raw_B * float("nan")


def make(folder: Path) -> Job:
    storage = Storage(root=str(folder / "lake"))
    return small_job(storage, table=small_table(600), batch_size=64, max_epochs=4, patience_epochs=4)


def pod(termination_log: Path) -> dict[str, Any]:
    """Return a pod whose torchrun has ended, as the kubelet shows it."""
    ended = {"exitCode": 1, "reason": "Error", "message": termination_log.read_text()}
    return {"status": {"phase": "Failed", "containerStatuses": [{"name": "base", "state": {"terminated": ended}}]}}


@pytest.mark.parametrize("failing_rank", [0, 1])
@pytest.mark.parametrize(
    ("fail", "code", "kind"),
    [
        (refuse_memory, ExitCode.OUT_OF_MEMORY, FailureKind.OUT_OF_MEMORY),
        (lose_numbers, ExitCode.BAD_JOB, FailureKind.USER_ERROR),
        (divide, 1, FailureKind.USER_ERROR),
    ],
)
@pytest.mark.parametrize("num_pods", [1, 2])
def test_the_failure_of_any_process_is_the_cause(
    tmp_path: Path,
    fail: Callable[[torch.Tensor], torch.Tensor],
    code: int,
    kind: FailureKind,
    failing_rank: int,
    num_pods: int,
) -> None:
    job, build = make(tmp_path), network.build_network
    logs = [tmp_path / f"termination-log-{number}" for number in range(num_pods)]
    for log in logs:
        log.touch()

    def work(rank: int, port: int, _folder: Path) -> None:
        become(rank, port)
        if rank == failing_rank:
            network.build_network = lambda inputs: Failing(build(inputs), fail)
        os._exit(command.main(["--job", job.uri], termination_log=logs[rank % num_pods]))

    codes = start(work, tmp_path)
    assert codes[failing_rank] == code
    assert codes[1 - failing_rank] == ExitCode.INTERRUPTED
    assert json.loads(logs[failing_rank % num_pods].read_text())["exit_code"] == code
    found = classify(Evidence(pods=[pod(log) for log in logs]))
    assert found is not None
    assert found.kind is kind
