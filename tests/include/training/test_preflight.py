"""What a machine must have before the first step."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from include.training import command
from include.training.exit_codes import ExitCode
from include.training.nvml import GpuState, Nvml
from include.training.preflight import GPUS_VARIABLE, Machine, PreflightError, check_machine, check_torch
from tests.gpu import needs_gpus
from tests.snapshots import small_job, small_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.lake.storage import Storage
    from include.training.job import Job

MIB = 1 << 20
HAS_DRIVER = Nvml.load() is not None


@pytest.fixture
def job(storage: Storage) -> Job:
    return small_job(storage, table=small_table(200))


def machine(
    tmp_path: Path, *, memory_mib: int = 8192, environment: Mapping[str, str] | None = None, found: Nvml | None = None
) -> Machine:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 999 kB\nMemAvailable: {memory_mib * 1024} kB\n")
    membership = tmp_path / "membership"
    cgroup = tmp_path / "cgroup"
    return Machine(environment=environment or {}, meminfo=meminfo, cgroup=cgroup, membership=membership, nvml=found)


def check(job: Job, found: Machine, *checkpoints_bytes: int) -> None:
    check_machine(job, machine=found, is_local=True, checkpoints_bytes=checkpoints_bytes)


def test_this_machine_passes_in_milliseconds(job: Job) -> None:
    took_s = []
    for _ in range(5):
        since = time.perf_counter()
        check(job, Machine.this_one())
        took_s.append(time.perf_counter() - since)
    assert min(took_s) < 0.1


def test_memory_must_hold_the_libraries_and_the_rows(job: Job, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"needs 400 MiB of free memory; got 399 MiB\. Nothing was trained here\."):
        check(job, machine(tmp_path, memory_mib=399))
    check(job, machine(tmp_path, memory_mib=401))


def test_memory_must_hold_the_rows_of_each_process_on_the_machine(job: Job, tmp_path: Path) -> None:
    """The first one asks for all; the others, when some may have begun to read, for themselves."""
    four = {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "0"}
    with pytest.raises(PreflightError, match=r"needs 160\d MiB of free memory for 4 processes; got 1599 MiB"):
        check(job, machine(tmp_path, memory_mib=1599, environment=four))
    check(job, machine(tmp_path, memory_mib=1610, environment=four))
    check(job, machine(tmp_path, memory_mib=410, environment=four | {"LOCAL_RANK": "3"}))


V2 = {
    "memory.max": "{limit}",
    "memory.current": "1000000000",
    "memory.stat": "anon 1\nactive_file 40\ninactive_file 60",
}
V1 = {
    "memory.limit_in_bytes": "{limit}",
    "memory.usage_in_bytes": "1000000000",
    "memory.stat": "cache 1\nactive_file 7\ntotal_active_file 40\ntotal_inactive_file 60",
}


def limit_memory(folder: Path, files: Mapping[str, str], limit: int | str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text.format(limit=limit))


@pytest.mark.parametrize(("files", "top"), [(V2, "cgroup"), (V1, "cgroup/memory")], ids=["v2", "v1"])
def test_the_limit_of_the_container_counts(job: Job, tmp_path: Path, files: Mapping[str, str], top: str) -> None:
    """Read files are dropped before memory is refused, those that were read twice too."""
    limit_memory(tmp_path / top, files, 1073741824)
    found = machine(tmp_path)
    assert found.free_memory_bytes() == 1073741824 - 1000000000 + 100
    with pytest.raises(PreflightError, match="got 70 MiB"):
        check(job, found)


@pytest.mark.parametrize("limited", ["user.slice/airflow.service", "user.slice"], ids=["its own", "the one above"])
@pytest.mark.parametrize(
    ("files", "top", "line"), [(V2, "cgroup", "0:"), (V1, "cgroup/memory", "9:cpu,memory")], ids=["v2", "v1"]
)
def test_the_limit_of_a_cgroup_inside_the_tree_counts(
    tmp_path: Path, files: Mapping[str, str], top: str, line: str, limited: str
) -> None:
    """As of a systemd unit, or of a container that sees the whole tree."""
    found = machine(tmp_path)
    found.membership.write_text(f"12:pids:/elsewhere\n{line}:/user.slice/airflow.service\n")
    limit_memory(tmp_path / top / "elsewhere", files, 1000000001)
    limit_memory(tmp_path / top / "user.slice" / "airflow.service", files, "9223372036854771712")
    limit_memory(tmp_path / top / limited, files, 1073741824)
    assert found.free_memory_bytes() == 1073741824 - 1000000000 + 100


def test_a_container_that_sees_its_own_part_of_the_tree_has_its_limit_at_the_top(tmp_path: Path) -> None:
    found = machine(tmp_path)
    found.membership.write_text("4:memory:/kubepods/pod1/container1\n0::/../../pod1\n")
    limit_memory(tmp_path / "cgroup" / "memory", V1, 1073741824)
    assert found.free_memory_bytes() == 1073741824 - 1000000000 + 100


def test_a_container_without_a_limit_is_the_machine(tmp_path: Path) -> None:
    found = machine(tmp_path)
    assert found.free_memory_bytes() == 8192 * MIB
    found.cgroup.mkdir()
    for name, text in {"memory.max": "max", "memory.current": "5", "memory.stat": ""}.items():
        (found.cgroup / name).write_text(text)
    assert found.free_memory_bytes() == 8192 * MIB


def test_the_disk_must_hold_one_checkpoint_more_than_are_kept(job: Job, tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(PreflightError, match=r"needs \d+ MiB free on the disk of .*; got \d+ MiB"):
        check(job, machine(tmp_path), free // 2)
    check(job, machine(tmp_path), free // 8)


def test_checkpoints_that_are_there_need_no_room_any_more(job: Job, tmp_path: Path) -> None:
    """Two of two are kept: one more must fit, on the disk that held all three while it was written."""
    free = shutil.disk_usage(tmp_path).free
    check(job, machine(tmp_path), free * 2 // 3, free * 2 // 3)
    with pytest.raises(PreflightError, match="MiB free on the disk"):
        check(job, machine(tmp_path), free * 2 // 3)
    with pytest.raises(PreflightError, match="MiB free on the disk"):
        check(job, machine(tmp_path), free * 2, free * 2, free * 2)  # one was not yet deleted


def test_a_machine_whose_disks_take_no_file_at_all_is_not_fit(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert command.main(["--job", job.uri]) == ExitCode.PREFLIGHT_FAILED
    said = "needs a folder for temporary files; got No usable temporary directory found in ['/tmp']. Nothing was"
    assert said in capsys.readouterr().out


def test_gpus_are_asked_of_the_driver(job: Job, tmp_path: Path, stub: Nvml) -> None:
    one, three = {GPUS_VARIABLE: "1"}, {GPUS_VARIABLE: "3"}
    check(job, machine(tmp_path, environment=one, found=stub))
    with pytest.raises(PreflightError, match=r"needs 3 GPU\(s\); got 2 by driver 999\.1"):
        check(job, machine(tmp_path, environment=three, found=stub))
    with pytest.raises(PreflightError, match="512 MiB of free memory on each GPU; got 1 MiB on Stub GPU"):
        check(job, machine(tmp_path, environment={GPUS_VARIABLE: "2"}, found=stub))
    with pytest.raises(PreflightError, match="a working NVIDIA driver"):
        check(job, machine(tmp_path, environment=one))


def test_the_library_says_what_the_gpus_do(stub: Nvml) -> None:
    assert stub.driver() == "999.1"
    assert stub.gpus() == [
        GpuState(name="Stub GPU", used_frac=0.75, used_bytes=1 << 33, free_bytes=1 << 33),
        GpuState(name="Stub GPU", used_frac=None, used_bytes=(1 << 34) - MIB, free_bytes=MIB),
    ]
    assert Nvml.load("libnone.so.1") is None


def test_a_slice_of_a_gpu_speaks_for_itself(stub: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_NVML_SLICED", "1")
    first, _ = stub.gpus()
    assert first == GpuState(name="Stub GPU", used_frac=None, used_bytes=1 << 33, free_bytes=1 << 33)


@pytest.mark.skipif(HAS_DRIVER, reason="needs a machine without an NVIDIA driver")
def test_a_training_that_was_given_gpus_never_trains_without(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, "1")
    assert command.main(["--job", job.uri]) == ExitCode.PREFLIGHT_FAILED
    assert "needs a working NVIDIA driver; got none that libnvidia-ml.so.1 can talk to" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a torch without CUDA")
def test_torch_is_asked_before_rows_are_read(
    job: Job, stub: Nvml, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, "1")
    monkeypatch.setattr(Nvml, "load", lambda: stub)
    shutil.rmtree(job.snapshot.uri)
    assert command.main(["--job", job.uri]) == ExitCode.PREFLIGHT_FAILED
    assert "needs CUDA for its 1 GPU(s); got none in torch" in capsys.readouterr().out


@needs_gpus(2)
def test_each_process_asks_its_own_gpu(job: Job, tmp_path: Path) -> None:
    for number in (0, 1):
        torch.cuda.reset_peak_memory_stats(number)
    before = [torch.cuda.max_memory_allocated(number) for number in (0, 1)]
    with torch.cuda.device(0):
        check_torch(job, machine=machine(tmp_path, environment={GPUS_VARIABLE: "2", "LOCAL_RANK": "1"}))
    assert torch.cuda.max_memory_allocated(0) == before[0]
    assert torch.cuda.max_memory_allocated(1) > before[1]


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_DRIVER, reason="needs an NVIDIA GPU and its driver")
def test_the_real_gpu_passes(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, "1")
    assert command.main(["--job", job.uri]) == ExitCode.DONE


def test_the_check_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'psutil', 'pyarrow'}"
    code = f"import include.training.command, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"
