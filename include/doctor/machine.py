"""Whether the machine can carry a deployment."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from include.doctor.finding import fail, ok, warn
from include.runtime.home import MIN_FREE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.doctor.finding import Finding

PYTHON = (3, 11)
MIN_CORES = 2
MIN_MEMORY_GIB = 4.0
"""Idle, the servers of one deployment hold 1.6 GiB; tasks, a training and the callers come on top."""
ROOM_FACTOR = 3
"""Below so many times the disk space without which nothing starts, a warning."""
_GIB = 1024**3


def check_machine(home: Path) -> list[Finding]:
    """Return findings about the interpreter, the platform, cores, memory, the disk of a deployment and the clock."""
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    return [
        judge_python(sys.version_info[:3]),
        judge_platform(platform.system(), platform.machine()),
        judge_cores(len(os.sched_getaffinity(0))),
        judge_memory(available_memory_bytes(_read(Path("/proc/meminfo")), _read(Path("/sys/fs/cgroup/memory.max")))),
        judge_disk(shutil.disk_usage(existing).free, at=existing),
        judge_clock(datetime.now(UTC), newest_file=_newest_file(existing)),
    ]


def judge_python(version: tuple[int, ...]) -> Finding:
    """Judge the interpreter: the lock is for one minor version."""
    text = ".".join(map(str, version))
    if tuple(version[:2]) == PYTHON:
        return ok("python", text)
    wanted = ".".join(map(str, PYTHON))
    return fail(
        "python", f"{text}; the lock is for {wanted}", f"rm -r .venv, put python{wanted} on the PATH, make setup"
    )


def judge_platform(system: str, machine: str) -> Finding:
    """Judge the platform: PostgreSQL and onnxruntime come as wheels for Linux x86_64."""
    if (system, machine) == ("Linux", "x86_64"):
        return ok("platform", f"{system} {machine}")
    return fail("platform", f"{system} {machine}; the locked wheels are for Linux x86_64", "use another machine")


def judge_cores(num_cores: int) -> Finding:
    """Judge the number of cores that this process may use."""
    if num_cores >= MIN_CORES:
        return ok("cores", str(num_cores))
    return warn("cores", f"{num_cores}; everything shares it", f"give it {MIN_CORES} cores")


def judge_memory(available_bytes: int | None) -> Finding:
    """Judge the memory that is free to use."""
    if available_bytes is None:
        return warn("memory", "the kernel does not say", "look at /proc/meminfo")
    gib = available_bytes / _GIB
    if gib >= MIN_MEMORY_GIB:
        return ok("memory", f"{gib:.1f} GiB available")
    return warn("memory", f"{gib:.1f} GiB available, {MIN_MEMORY_GIB:.0f} wanted", "stop something, or add memory")


def available_memory_bytes(meminfo: str, cgroup_max: str) -> int | None:
    r"""Return what a new process may take: what the kernel calls available, within the limit of the container.

    Source: proc_meminfo(5), MemAvailable; the kernel's cgroup-v2 document, memory.max.

    >>> available_memory_bytes("MemTotal: 9 kB\nMemAvailable: 4 kB\n", "max")
    4096
    """
    values = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    if "MemAvailable" not in values:
        return None
    available = int(values["MemAvailable"].split()[0]) * 1024
    return min(available, int(cgroup_max)) if cgroup_max.strip().isdigit() else available


def judge_disk(free_bytes: int, *, at: Path) -> Finding:
    """Judge the disk that the deployment lies on."""
    said = f"{free_bytes / _GIB:.1f} GiB free at {at}"
    if free_bytes < MIN_FREE_BYTES:
        return fail("disk", f"{said}; nothing starts below {MIN_FREE_BYTES >> 30}", "free some space, or move --home")
    if free_bytes < ROOM_FACTOR * MIN_FREE_BYTES:
        return warn("disk", said, "free some space before it stops new starts")
    return ok("disk", said)


def judge_clock(now: datetime, *, newest_file: datetime | None) -> Finding:
    """Judge the clock by the one thing that is surely in the past: a file that was written."""
    said = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if newest_file is not None and newest_file > now:
        return fail("clock", f"{said}; a file of {newest_file:%Y-%m-%d %H:%M:%S} is there", "set the clock, use NTP")
    return ok("clock", said)


def judge_environment(variables: Mapping[str, str]) -> Finding:
    """Judge the variables that point a deployment elsewhere; values are not shown, they may hold passwords."""
    named = sorted(name for name in variables if name.startswith(("TRADEWIND_", "AIRFLOW_CONN_")))
    return ok("settings", ", ".join(named) if named else "no TRADEWIND_ or AIRFLOW_CONN_ variable is set")


def _newest_file(folder: Path) -> datetime | None:
    times = [entry.stat().st_mtime for entry in os.scandir(folder)]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
