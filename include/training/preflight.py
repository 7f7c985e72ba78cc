"""Whether this machine can train the job at all, asked before the first step.

What is found here is the machine's fault: the same job may run on another one. What costs little is asked first; a GPU
is asked for a small sum, since a driver that answers may still sit on a device that does not compute.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import SetupError
from include.training.nvml import Nvml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.training.job import Job

GPUS_VARIABLE = "TRADEWIND_GPUS"
"""How many GPUs the training was given to compute on; without it none is required."""

_MIB = 1 << 20
_LEAST_DISK_BYTES = 32 * _MIB
_LIBRARIES_BYTES = 400 * _MIB
"""Memory of Python, torch and pyarrow before the first row."""
_ROW_VALUE_BYTES = 40
"""A value of a row lives in the Arrow table, as Python or float64 while it is encoded, and in a tensor."""
_LEAST_GPU_BYTES = 512 * _MIB
"""CUDA's context and its libraries' work space."""


@dataclass(frozen=True, kw_only=True)
class _CgroupFiles:
    """Where the kernel keeps a cgroup's account: its cgroup-v2 document, and that of the memory controller of v1."""

    limit: str
    used: str
    droppable: frozenset[str]


_V2 = _CgroupFiles(limit="memory.max", used="memory.current", droppable=frozenset({"active_file", "inactive_file"}))
_V1 = _CgroupFiles(
    limit="memory.limit_in_bytes",
    used="memory.usage_in_bytes",
    droppable=frozenset({"total_active_file", "total_inactive_file"}),
)


class PreflightError(SetupError):
    """This machine cannot train; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the checks look at.

    Args:
        environment: Of the process.
        meminfo: The kernel's account of its memory.
        cgroup: Folder of the limits of cgroups, version 2 or 1.
        membership: The kernel's word to which of them this process belongs.
        nvml: NVIDIA's library; None without a driver.
    """

    environment: Mapping[str, str]
    meminfo: Path = Path("/proc/meminfo")
    cgroup: Path = Path("/sys/fs/cgroup")
    membership: Path = Path("/proc/self/cgroup")
    nvml: Nvml | None = None

    @classmethod
    def this_one(cls) -> Machine:
        """Return the machine that this process runs on; the driver is only asked for where GPUs are."""
        asked = os.environ.get(GPUS_VARIABLE, "") not in ("", "0")
        return cls(environment=os.environ, nvml=Nvml.load() if asked else None)

    @property
    def num_gpus(self) -> int:
        """How many GPUs this training was given."""
        return int(self.environment.get(GPUS_VARIABLE) or 0)

    @property
    def num_processes(self) -> int:
        """How many processes train together, as torchrun says."""
        return int(self.environment.get("WORLD_SIZE") or 1)

    @property
    def num_machines(self) -> int:
        """On how many machines they are; torchrun calls a machine a group."""
        return int(self.environment.get("GROUP_WORLD_SIZE") or 1)

    @property
    def num_to_read(self) -> int:
        """For how many processes of this machine this one asks: the first for all, the others while they may read."""
        is_first_here = self.environment.get("LOCAL_RANK", "0") == "0"
        return int(self.environment.get("LOCAL_WORLD_SIZE") or 1) if is_first_here else 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks for those that train with it."""
        return self.environment.get("RANK", "0") == "0"

    def free_memory_bytes(self) -> int | None:
        """Return the memory that is left, by the machine and by the container's limit; None if neither says."""
        found = [_meminfo_bytes(self.meminfo), _cgroup_bytes(self.cgroup, self.membership)]
        return min((one for one in found if one is not None), default=None)


def check_machine(job: Job, *, machine: Machine, is_local: bool, checkpoints_bytes: Sequence[int]) -> None:
    """Check what can be asked without torch: disk, memory, driver, GPUs.

    Args:
        job: What is to be trained.
        machine: What is asked.
        is_local: Whether the job's files lie on a disk of this machine.
        checkpoints_bytes: Size of each checkpoint that is there, oldest first.

    Raises:
        PreflightError: This machine cannot train it.
    """
    _check_disks(job, is_local=is_local, checkpoints_bytes=checkpoints_bytes)
    values = job.snapshot.num_rows * (len(job.spec.features.numeric) + len(job.spec.features.categorical) + 1)
    wanted = machine.num_to_read * (_LIBRARIES_BYTES + values * _ROW_VALUE_BYTES)
    memory = machine.free_memory_bytes()
    if memory is not None and memory < wanted:
        readers = f" for {machine.num_to_read} processes" if machine.num_to_read > 1 else ""
        raise _unfit(job, f"{wanted // _MIB} MiB of free memory{readers}", f"{memory // _MIB} MiB")
    if machine.num_gpus:
        _check_driver(job, machine)


def _check_disks(job: Job, *, is_local: bool, checkpoints_bytes: Sequence[int]) -> None:
    try:
        places = {tempfile.gettempdir(): _LEAST_DISK_BYTES}
    except FileNotFoundError as error:  # nothing can be written in any of them
        raise _unfit(job, "a folder for temporary files", str(error.strerror)) from error
    if is_local:
        newest = max(checkpoints_bytes[-1:], default=0)
        to_come = (job.training.checkpoints_kept + 1) * newest - sum(checkpoints_bytes)
        places[job.output_uri] = _LEAST_DISK_BYTES + max(newest, to_come)
    for folder, num_bytes in places.items():
        found = _existing(folder)
        if (free := shutil.disk_usage(found).free) < num_bytes:
            raise _unfit(job, f"{num_bytes // _MIB} MiB free on the disk of {folder}", f"{free // _MIB} MiB")
        if not os.access(found, os.W_OK | os.X_OK):
            raise _unfit(job, f"leave to write into {folder}", f"none for user {os.geteuid()}, or a read-only disk")


def _check_driver(job: Job, machine: Machine) -> None:
    if machine.nvml is None:
        raise _unfit(job, "a working NVIDIA driver", "none that libnvidia-ml.so.1 can talk to")
    gpus = machine.nvml.gpus()
    if len(gpus) < machine.num_gpus:
        raise _unfit(job, f"{machine.num_gpus} GPU(s)", f"{len(gpus)} by driver {machine.nvml.driver()}")
    full = [gpu for gpu in gpus if gpu.free_bytes < _LEAST_GPU_BYTES]
    if len(gpus) - len(full) < machine.num_gpus:
        found = f"{full[0].free_bytes // _MIB} MiB on {full[0].name}"
        raise _unfit(job, f"{_LEAST_GPU_BYTES // _MIB} MiB of free memory on each GPU", found)


def check_torch(job: Job, *, machine: Machine) -> None:
    """Check that torch computes on this process' GPU, and can talk between them; without GPUs, nothing.

    Raises:
        PreflightError: It cannot.
        SetupError: This process has no GPU: there are more processes than GPUs.
    """
    if not machine.num_gpus:
        return
    import torch

    from include.training.ranks import own_device

    if not torch.cuda.is_available():
        raise _unfit(job, f"CUDA for its {machine.num_gpus} GPU(s)", f"none in torch {torch.__version__}")
    if machine.num_processes > 1 and not torch.distributed.is_nccl_available():
        raise _unfit(job, f"NCCL for {machine.num_processes} processes", f"none in torch {torch.__version__}")
    try:
        total = float(torch.ones(1024, device=own_device(machine.environment)).sum())
    except RuntimeError as error:
        raise _unfit(job, "a GPU that computes", str(error).splitlines()[0]) from error
    if total != 1024:  # noqa: PLR2004 - the sum of so many ones
        raise _unfit(job, "a GPU that computes", f"{total:g} as the sum of 1024 ones")


def _unfit(job: Job, wanted: str, found: str) -> PreflightError:
    return PreflightError(
        f"training job {job.key} needs {wanted}; got {found}. Nothing was trained here. Mend this machine, or "
        "train on another one."
    )


def _existing(folder: str) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    path = Path(folder)
    return next((found for found in (path, *path.parents) if found.exists()), path)


def _meminfo_bytes(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _cgroup_bytes(root: Path, membership: Path) -> int | None:
    """Return what the limits of the process' cgroup and of all above it leave; None: no limit."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    found = [_left_bytes(root, _V2), _left_bytes(root / "memory", _V1)]
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if not controllers or "memory" in controllers.split(","):
            top, files = (root / "memory", _V1) if controllers else (root, _V2)
            # A container that sees only its own part of the tree has it at the top, and nothing under the path.
            below = Path(path.lstrip("/"))
            found += [_left_bytes(top / one, files) for one in (below, *below.parents)]
    return min((one for one in found if one is not None), default=None)


def _left_bytes(folder: Path, files: _CgroupFiles) -> int | None:
    """Return what one cgroup's limit leaves; pages of files that can be dropped count as free. None: no limit."""
    try:
        limit, used, stat = ((folder / name).read_text().strip() for name in (files.limit, files.used, "memory.stat"))
    except OSError:
        return None
    if limit == "max":
        return None
    droppable = [int(line.split()[1]) for line in stat.splitlines() if line.split()[0] in files.droppable]
    return int(limit) - int(used) + sum(droppable)
