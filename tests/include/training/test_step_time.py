"""What a step of the trainer costs beside a plain torch loop that does the same, on each device that is there.

`make bench-gpu` writes a GPU's figures into benchmarks/gpu.json.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from include.training.checkpoints import Checkpoints
from include.training.fit import NUM_THREADS, _build, fit
from include.training.ranks import Ranks
from include.training.rows import load_rows
from tests.gpu import DEVICES, record
from tests.snapshots import SPEC, small_job, small_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage
    from include.training.job import Job
    from include.training.rows import Rows

MAX_RATIO = 1.03
NUM_TRIES = 5
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"batch_size": 1024, "hidden": [64, 32], "max_epochs": 2, "num_rows": 30_000},
    "cuda": {"batch_size": 8192, "hidden": [1024, 1024], "max_epochs": 4, "num_rows": 400_000},
}


def clock(device: torch.device) -> float:
    """Return the processor's seconds, which others on this machine do not add to, or a GPU's by the wall."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def plain_loop(job: Job, rows: Rows, *, device: torch.device) -> None:
    """Train as short as torch lets one write it: no checkpoints, no signals, no look at the losses on the way."""
    network = _build(job, rows).to(device).train()
    average = copy.deepcopy(network).eval()
    pairs = list(zip(average.parameters(), network.parameters(), strict=True))
    optimizer = torch.optim.AdamW(network.parameters(), lr=job.training.learning_rate, fused=True)
    tensors = [torch.from_numpy(x).to(device) for x in (rows.categorical_BC, rows.numeric_BN, rows.label_B)]
    table, held_out = [x[: rows.num_train] for x in tensors], [x[rows.num_train :] for x in tensors]
    for _ in range(job.training.max_epochs):
        total = torch.zeros((), device=device)
        for chosen_B in torch.randperm(rows.num_train, device=device).split(job.training.batch_size):
            categorical_BC, numeric_BN, label_B = (x[chosen_B] for x in table)
            loss = rows.task.train_loss(network(categorical_BC, numeric_BN), label_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for averaged, current in pairs:
                    averaged.lerp_(current, 0.01)
            total += loss.detach()
        with torch.inference_mode():
            rows.task.link(average(*held_out[:2])).cpu()
        total.item()


def least_seconds(run: Callable[[], object], *, device: torch.device) -> float:
    """Return the seconds of the fastest of some runs, after one that does not count."""
    run()
    found = []
    for _ in range(NUM_TRIES):
        since = clock(device)
        run()
        found.append(clock(device) - since)
    return min(found)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_takes_no_longer_than_in_a_plain_loop(storage: Storage, device: torch.device) -> None:
    ranks, size = Ranks(device=device), dict(SIZES[device.type])
    table = small_table(size.pop("num_rows"))

    def prepared(precision: str) -> tuple[Job, Rows]:
        params = {**size, "patience_epochs": size["max_epochs"], "precision": precision}
        job = small_job(storage, table=table, spec=SPEC, **params)
        return job, load_rows(job, storage=storage)

    def train(job: Job, rows: Rows) -> float:
        checkpoints = Checkpoints.of_job(job, storage=storage)
        fitted = fit(job, rows, checkpoints=checkpoints, ranks=ranks, should_stop=lambda: False, say=lambda _line: None)
        return fitted.data_wait_frac

    torch.set_num_threads(NUM_THREADS)
    (job, rows), in_bf16 = prepared("fp32"), prepared("bf16")
    num_steps = size["max_epochs"] * -(-rows.num_train // size["batch_size"])
    plain_s = least_seconds(lambda: plain_loop(job, rows, device=device), device=device)
    ours_s = least_seconds(lambda: train(job, rows), device=device)
    bf16_s = least_seconds(lambda: train(*in_bf16), device=device)
    figures = {
        "rows_per_step": size["batch_size"],
        "hidden": size["hidden"],
        "plain_step_ms": round(1000 * plain_s / num_steps, 3),
        "step_ms": round(1000 * ours_s / num_steps, 3),
        "bf16_step_ms": round(1000 * bf16_s / num_steps, 3),
        "data_wait_frac": train(job, rows),
    }
    record("step", figures, device=device)
    assert ours_s / plain_s <= MAX_RATIO
    assert figures["data_wait_frac"] < 0.05
