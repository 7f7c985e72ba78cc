"""What a training takes: processor, memory and GPUs, sampled in the job while it runs, summed over its starts."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from include.errors import NotFoundError, ServiceError, SetupError
from include.lake.files import read_bytes, write_bytes
from include.training.nvml import Nvml

if TYPE_CHECKING:
    from include.lake.storage import Storage
    from include.training.job import Job
    from include.training.nvml import GpuState

SPENT_FILE = "spent.json"
PRICE_VARIABLE = "TRADEWIND_PRICE_PER_HOUR"
"""What an hour of this training costs, all its pods together; without it nothing is said about cost."""
SAMPLE_S = 1.0
_KEEP_S = 30.0
"""Seconds after which what was spent is written down: a killed start hides at most so much."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class GpuUse(BaseModel):
    """One GPU while the last start trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    mean_used_frac: float | None = Field(description="Mean share of time in which a kernel ran; null: not told.")
    peak_used_bytes: int = Field(description="Most memory in use on it, by all processes.")


class Spent(BaseModel):
    """What all starts of a job have taken together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_starts: int = 0
    wall_s: float = 0.0
    cpu_s: float = Field(default=0.0, description="Of the first process of each start, and of its own.")
    gpu_s: float = Field(default=0.0, description="Seconds times GPUs that were held, busy or not.")
    cost: float | None = Field(default=None, description="In the currency of the price; null without a price.")

    @property
    def words(self) -> str:
        """A sentence about it; empty if nothing was spent.

        >>> Spent(num_starts=3, wall_s=5400, gpu_s=10800, cost=2.7).words
        'Its 3 starts have taken 5,400 s, 3.00 GPU hours, 2.70 by the price.'
        """
        if not self.num_starts:
            return ""
        taken = f"Its {self.num_starts} starts have" if self.num_starts > 1 else "Its only start has"
        gpus = f", {self.gpu_s / 3600:,.2f} GPU hours" if self.gpu_s else ""
        cost = f", {self.cost:,.2f} by the price" if self.cost is not None else ""
        return f"{taken} taken {self.wall_s:,.0f} s{gpus}{cost}."


class Resources(BaseModel):
    """What a finished training took.

    Where several processes train together, processor, memory and GPUs are those of the first process and of its
    machine: the others take about as much each, and nobody waits at the end to add theirs. `total.gpu_s` and
    `total.cost` are of all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_s: float = Field(description="Of the last start, to its end of training.")
    mean_cores: float = Field(description="Processors that the first process kept busy, on average.")
    peak_rss_bytes: int = Field(description="Most memory of the first process and its own at one moment.")
    num_gpus: int
    gpus: tuple[GpuUse, ...] = ()
    total: Spent = Field(description="Of all starts, those that were interrupted or killed too.")

    def figures(self) -> dict[str, float]:
        """Return its numbers by name, as a ledger or a table of runs takes them; what is not known is left out."""
        told = [gpu.mean_used_frac for gpu in self.gpus if gpu.mean_used_frac is not None]
        found = {
            **self.total.model_dump(),
            "mean_cores": self.mean_cores,
            "peak_rss_bytes": self.peak_rss_bytes,
            "gpu_used_frac": round(sum(told) / len(told), 4) if told else None,
            "gpu_peak_bytes": max((gpu.peak_used_bytes for gpu in self.gpus), default=None),
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass
class _Samples:
    """All samples of one GPU, as numbers that do not grow with the weeks of a training."""

    name: str
    num_told: int = 0
    sum_used_frac: float = 0.0
    peak_used_bytes: int = 0

    def add(self, gpu: GpuState) -> None:
        """Take one more sample."""
        self.peak_used_bytes = max(self.peak_used_bytes, gpu.used_bytes)
        if gpu.used_frac is not None:
            self.num_told, self.sum_used_frac = self.num_told + 1, self.sum_used_frac + gpu.used_frac

    def use(self) -> GpuUse:
        """Return what they say together."""
        mean = round(self.sum_used_frac / self.num_told, 4) if self.num_told else None
        return GpuUse(name=self.name, mean_used_frac=mean, peak_used_bytes=self.peak_used_bytes)


class ResourceSampler:
    """Samples this process and those below it in a thread of its own, until it is closed.

    Args:
        job: Whose totals are kept in its folder.
        storage: Where that is.
        num_gpus: GPUs that the training holds, on all its machines.
        price_per_hour: Of all that it holds; None: not known.
        is_kept: Whether this process writes the totals down; of several that train together, one does.
        sample_s: Seconds between two samples.
    """

    def __init__(
        self,
        job: Job,
        *,
        storage: Storage,
        num_gpus: int,
        price_per_hour: float | None = None,
        is_kept: bool = True,
        sample_s: float = SAMPLE_S,
    ) -> None:
        self._uri, self._storage = _uri_of(job), storage
        self.num_gpus, self._price_per_hour = num_gpus, price_per_hour
        self._is_kept, self._sample_s = is_kept, sample_s
        self._before = spent_on(job, storage=storage)
        self._since_s, self._kept_s = time.monotonic(), time.monotonic()
        self._peak_rss_bytes = 0
        self._gpus: dict[int, _Samples] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resources", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_about: object) -> None:
        self._over.set()
        self._thread.join()
        self._keep()

    def resources(self) -> Resources:
        """Return what was taken until now."""
        wall_s, cpu_s = time.monotonic() - self._since_s, _cpu_s(os.getpid())
        self._peak_rss_bytes = max(self._peak_rss_bytes, _rss_bytes())
        return Resources(
            wall_s=round(wall_s, 3),
            mean_cores=round(cpu_s / max(wall_s, 1e-9), 3),
            peak_rss_bytes=self._peak_rss_bytes,
            num_gpus=self.num_gpus,
            gpus=tuple(samples.use() for samples in list(self._gpus.values())),
            total=self._spent(wall_s),
        )

    def _run(self) -> None:
        nvml = Nvml.load()
        while not self._over.wait(self._sample_s):
            self._peak_rss_bytes = max(self._peak_rss_bytes, _rss_bytes())
            for index, gpu in enumerate(nvml.gpus() if nvml else ()):
                self._gpus.setdefault(index, _Samples(gpu.name)).add(gpu)
            if time.monotonic() - self._kept_s > _KEEP_S:
                self._keep()

    def _spent(self, wall_s: float) -> Spent:
        before = self._before
        cost = None if self._price_per_hour is None else (before.cost or 0.0) + wall_s / 3600 * self._price_per_hour
        return Spent(
            num_starts=before.num_starts + 1,
            wall_s=round(before.wall_s + wall_s, 3),
            cpu_s=round(before.cpu_s + _cpu_s(os.getpid()), 3),
            gpu_s=round(before.gpu_s + wall_s * self.num_gpus, 3),
            cost=before.cost if cost is None else round(cost, 6),
        )

    def _keep(self) -> None:
        """Write the totals down; an account that cannot be kept must not stop what it counts."""
        self._kept_s = time.monotonic()
        if not self._is_kept:
            return
        with contextlib.suppress(OSError, ServiceError, SetupError):
            spent = self._spent(time.monotonic() - self._since_s)
            write_bytes(self._uri, spent.model_dump_json().encode(), storage=self._storage)


def spent_on(job: Job, *, storage: Storage) -> Spent:
    """Return what all starts of a job have taken until now, as far as it was written down.

    Raises:
        ServiceError: The storage does not answer.
    """
    try:
        return Spent.model_validate_json(read_bytes(_uri_of(job), storage=storage))
    except (NotFoundError, ValidationError):
        return Spent()


def _uri_of(job: Job) -> str:
    return f"{job.output_uri}/{SPENT_FILE}"


def _tree(pid: int) -> list[int]:
    """Return a process and all below it that are alive."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def _rss_bytes() -> int:
    total = 0
    for pid in _tree(os.getpid()):
        with contextlib.suppress(OSError, IndexError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


def _cpu_s(leader: int) -> float:
    """Return the processor time of a process, of those below it, and of its children that have ended (proc(5))."""
    ticks = 0
    for pid in _tree(leader):
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS_PER_S
