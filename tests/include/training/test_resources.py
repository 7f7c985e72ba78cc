"""What a training takes, as the job itself has seen it."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.training import command, resources
from include.training.exit_codes import ExitCode
from include.training.nvml import GpuState, Nvml
from include.training.resources import SPENT_FILE, ResourceSampler, Spent
from include.training.result import read_result
from include.training.stop import Stop
from tests.snapshots import small_job, small_table

if TYPE_CHECKING:
    from include.lake.storage import Storage

MIB = 1 << 20
MADE_HERE = [tracemalloc.Filter(inclusive=True, filename_pattern=file) for file in (resources.__file__, __file__)]


def test_a_result_says_what_it_took(storage: Storage) -> None:
    job = small_job(storage, table=small_table(600))
    assert command.main(["--job", job.uri]) == ExitCode.DONE
    result = read_result(job, storage=storage)
    assert result is not None
    found = result.resources
    assert found is not None
    assert 0 < found.wall_s < 60
    assert found.mean_cores > 0
    assert 50 * MIB < found.peak_rss_bytes < 8192 * MIB
    assert (found.total.num_starts, found.num_gpus, found.gpus) == (1, 0, ())
    names = {"num_starts", "wall_s", "cpu_s", "gpu_s", "mean_cores", "peak_rss_bytes"}
    assert found.figures().keys() == names  # no cost without a price, and nothing of GPUs without one


def test_interrupted_starts_are_counted_too(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small_job(storage, table=small_table(600))
    with monkeypatch.context() as stopped:
        stopped.setattr(Stop, "__call__", lambda _self: True)
        assert command.main(["--job", job.uri]) == ExitCode.INTERRUPTED
    before = Spent.model_validate_json(Path(job.output_uri, SPENT_FILE).read_bytes())
    assert before.num_starts == 1
    assert command.main(["--job", job.uri]) == ExitCode.DONE
    result = read_result(job, storage=storage)
    assert result is not None
    assert result.resources is not None
    total = result.resources.total
    assert total.num_starts == 2
    assert total.wall_s == pytest.approx(before.wall_s + result.resources.wall_s, abs=0.002)  # three roundings


def _hold(num_bytes: int, ready: object) -> None:
    held = bytearray(num_bytes)
    held[::4096] = b"x" * len(held[::4096])
    ready.set()  # type: ignore[attr-defined]
    time.sleep(30)


def test_processes_below_count(storage: Storage) -> None:
    job = small_job(storage, table=small_table(200))
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    with ResourceSampler(job, storage=storage, num_gpus=0, sample_s=0.05) as sampler:
        before = sampler.resources().peak_rss_bytes
        child = context.Process(target=_hold, args=(200 * MIB, ready))
        child.start()
        assert ready.wait(30)
        assert sampler.resources().peak_rss_bytes > before + 190 * MIB
        child.kill()
        child.join()


def test_gpus_are_held_whether_busy_or_not(storage: Storage, monkeypatch: pytest.MonkeyPatch, stub: object) -> None:
    monkeypatch.setattr(Nvml, "load", lambda: stub)
    job = small_job(storage, table=small_table(200))
    began = time.monotonic()
    with ResourceSampler(job, storage=storage, num_gpus=2, price_per_hour=7.2, sample_s=0.02) as sampler:
        time.sleep(0.2)
        found = sampler.resources()
        passed_s = time.monotonic() - began
    assert found.total.cost == pytest.approx(found.total.wall_s / 3600 * 7.2, abs=2e-6)  # both are rounded
    assert found.figures()["gpu_used_frac"] == 0.75
    assert found.figures()["gpu_peak_bytes"] == (1 << 34) - MIB
    assert 2 * 0.2 <= found.total.gpu_s <= round(2 * passed_s, 3)
    assert [gpu.name for gpu in found.gpus] == ["Stub GPU", "Stub GPU"]
    assert [gpu.mean_used_frac for gpu in found.gpus] == [0.75, None]
    assert found.gpus[0].peak_used_bytes == 1 << 33
    kept = json.loads(Path(job.output_uri, SPENT_FILE).read_text())
    assert kept["gpu_s"] >= found.total.gpu_s


class Counted:
    """A driver that looks at two of its samples at the memory that samples take: Python keeps strings of its own."""

    looks_at = (200, 2000)

    def __init__(self) -> None:
        self.num_samples, self.held_bytes, self.is_over = 0, list[int](), threading.Event()

    def gpus(self) -> list[GpuState]:
        self.num_samples += 1
        if self.num_samples in self.looks_at:
            taken = tracemalloc.take_snapshot().filter_traces(MADE_HERE)
            self.held_bytes.append(sum(trace.size for trace in taken.traces))
        if self.num_samples == self.looks_at[-1]:
            self.is_over.set()
        share = self.num_samples / 1e4
        return [GpuState(name="GPU", used_frac=share, used_bytes=2**34 + self.num_samples, free_bytes=2**30)] * 8


def test_weeks_of_samples_take_no_more_memory_than_minutes(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Counted()
    monkeypatch.setattr(Nvml, "load", lambda: driver)
    tracemalloc.start()
    try:
        with ResourceSampler(small_job(storage, table=small_table(200)), storage=storage, num_gpus=8, sample_s=0):
            assert driver.is_over.wait(60)
    finally:
        tracemalloc.stop()
    early, late = driver.held_bytes
    assert late - early < 10_000


def test_an_account_that_cannot_be_kept_stops_nothing(storage: Storage) -> None:
    job = small_job(storage, table=small_table(200))
    Path(job.output_uri, SPENT_FILE).mkdir()
    with ResourceSampler(job, storage=storage, num_gpus=0) as sampler:
        assert sampler.resources().total.num_starts == 1
