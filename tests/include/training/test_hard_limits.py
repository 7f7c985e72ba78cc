"""The local runner where the machine gives out for real: a full disk, no memory, the kernel's out-of-memory killer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from include.training.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parents[3]
MIB = 1 << 20

TASK = """
import json, os, resource, subprocess, sys
from pathlib import Path

asked = json.loads(sys.argv[1])
root = Path(asked["root"])
if "disk_mib" in asked:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={asked['disk_mib']}m", "tmpfs", str(root)], check=True)
if asked.get("shares_disk"):
    os.environ["TMPDIR"] = f"{root}/tmp"
    Path(os.environ["TMPDIR"]).mkdir()
if "cgroup" in asked:
    Path(asked["cgroup"], "cgroup.procs").write_text(str(os.getpid()))
if "address_space_mib" in asked:
    resource.setrlimit(resource.RLIMIT_AS, (asked["address_space_mib"] << 20,) * 2)

from include.errors import TradewindError
from include.lake.storage import Storage
from include.training.local import TrainerProcess
from tests.snapshots import small_job, small_table

storage = Storage(root=f"{root}/data")
job = small_job(storage, table=small_table(600), **asked["params"])
fill = root / "fill"

def fill_up():
    try:
        with fill.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass

def say(line):
    print("log", line, flush=True)
    if line.startswith(asked.get("fill_at", "never")):
        del asked["fill_at"]
        fill_up()

def attempt():
    try:
        result = TrainerProcess(job=job, storage=storage, timeout_s=60, say=say).run()
        print("ended", json.dumps({"error": None, "epochs": len(result.epochs)}))
    except TradewindError as error:
        print("ended", json.dumps({"error": type(error).__name__, "message": str(error)}))

if asked.get("fill_at") == "start":
    del asked["fill_at"]
    fill_up()
attempt()
if fill.exists():
    fill.unlink()
    attempt()
"""


READ_ONLY = """
import subprocess, sys
from include.lake.storage import Storage
from include.training import command
from tests.snapshots import small_job, small_table

disk = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
job = small_job(Storage(root=disk), table=small_table(600))
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
sys.exit(command.main(["--job", job.uri]))
"""


@pytest.fixture
def attempt(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that runs a task's process under limits and returns how each of its tries ended."""

    def run(command: Sequence[str] = (), **asked: Any) -> list[dict[str, Any]]:
        code = json.dumps({"root": str(tmp_path / "root"), **asked})
        (tmp_path / "root").mkdir()
        (tmp_path / "tmp").mkdir()
        done = subprocess.run(
            [*command, sys.executable, "-c", TASK, code],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        found = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("ended ")]
        assert found, done.stdout + done.stderr
        return found

    return run


def a_disk_of_its_own() -> Sequence[str]:
    """Return the command that lets a process mount a small disk that only it sees."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare and user namespaces, to mount a small disk")
    return command


@pytest.fixture
def small_memory() -> Iterator[Callable[[int], str]]:
    """Return a function that makes a memory cgroup with a limit in MiB."""
    made: list[Path] = []

    def make(limit_mib: int) -> str:
        controllers = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        v1 = [Path(f"/sys/fs/cgroup/memory{path}") for _, name, path in controllers if name == "memory"]
        v2 = [Path(f"/sys/fs/cgroup{path}") for _, name, path in controllers if not name]
        limit = "memory.limit_in_bytes" if v1 else "memory.max"
        try:
            folder = (*v1, *v2)[0] / f"tradewind-test-{uuid.uuid4().hex[:8]}"
            folder.mkdir()
            made.append(folder)
            (folder / limit).write_text(str(limit_mib * MIB))
        except (IndexError, OSError):
            pytest.skip("needs a memory cgroup that this user may limit")
        return str(folder)

    yield make
    for folder in made:
        folder.rmdir()


@pytest.mark.parametrize(
    ("shares_disk", "words"),
    [(False, "32 MiB free on the disk of"), (True, "No space left on device")],
    ids=["lake", "lake and TMPDIR"],
)
def test_a_disk_that_is_full_before_the_start_is_the_machines_fault(
    attempt: Callable[..., list[dict[str, Any]]], shares_disk: bool, words: str
) -> None:
    first, second = attempt(a_disk_of_its_own(), disk_mib=40, fill_at="start", shares_disk=shares_disk, params={})
    assert first["error"] == "TrainingError"
    assert "preflight: the node is not fit to train" in first["message"]
    assert words in first["message"]
    assert (
        "No checkpoint was saved. The next try, if the task has one left, starts from the beginning."
        in first["message"]
    )
    assert second == {"error": None, "epochs": 4}


def test_a_disk_that_is_read_only_is_the_machines_fault_before_the_first_step(tmp_path: Path) -> None:
    command = [*a_disk_of_its_own(), sys.executable, "-c", READ_ONLY, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == ExitCode.PREFLIGHT_FAILED, done.stdout + done.stderr
    assert f"needs leave to write into {tmp_path}/" in done.stdout
    assert "epoch 1" not in done.stdout


@pytest.mark.chaos
@pytest.mark.parametrize("shares_disk", [False, True], ids=["lake", "lake and TMPDIR"])
def test_a_disk_that_fills_up_while_training_is_the_machines_fault(
    attempt: Callable[..., list[dict[str, Any]]], shares_disk: bool
) -> None:
    params = {"max_epochs": 150, "patience_epochs": 150, "learning_rate": 1e-5}
    limits = {"disk_mib": 64, "fill_at": "epoch 1:", "shares_disk": shares_disk}
    first, second = attempt(a_disk_of_its_own(), **limits, params=params)
    assert first["error"] == "TrainingError"
    assert "exit code 66" in first["message"]
    assert ("No space left on device" in first["message"]) is not shares_disk  # the trainer's words are on that disk
    assert second == {"error": None, "epochs": 150}


@pytest.mark.chaos
def test_a_refused_allocation_needs_a_person(attempt: Callable[..., list[dict[str, Any]]]) -> None:
    (found,) = attempt(address_space_mib=8192, params={"hidden": [60_000, 60_000]})
    assert found["error"] == "SetupError"
    assert "exit code 71" in found["message"]
    assert "No retry follows. Name a larger profile in training.profile, or a smaller batch_size." in found["message"]


@pytest.mark.chaos
def test_a_trainer_that_the_kernel_ends_for_want_of_memory_needs_a_person(
    attempt: Callable[..., list[dict[str, Any]]], small_memory: Callable[[int], str]
) -> None:
    (found,) = attempt(cgroup=small_memory(640), params={"hidden": [12_000, 12_000]})
    assert found["error"] == "SetupError"
    assert "out_of_memory" in found["message"]
    assert "the kernel ended 1 process(es) for want of memory while it ran" in found["message"]
