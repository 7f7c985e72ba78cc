import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.runtime import processes
from include.runtime.home import REPO

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
IGNORES_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
)
STARTS_A_CHILD = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', {IGNORES_SIGTERM!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
STUBBORN = (sys.executable, "-c", STARTS_A_CHILD)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., processes.ManagedProcess]:
    pids = tmp_path / "pids"
    pids.mkdir()
    return lambda name, command: processes.start(name, command, env=os.environ, pids=pids, log=tmp_path / f"{name}.log")


def wait_for_line(path: Path) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text().strip()
        time.sleep(0.02)
    raise TimeoutError(path)


def test_a_started_process_is_found_and_stopped(start: Callable[..., processes.ManagedProcess], tmp_path: Path) -> None:
    process = start("server", SLEEP)
    assert processes.find(tmp_path / "pids") == [process]
    assert process.is_running

    processes.stop(process, pids=tmp_path / "pids")

    assert not process.is_running
    assert processes.find(tmp_path / "pids") == []


def test_stop_ends_the_children_of_a_leader_that_died(
    start: Callable[..., processes.ManagedProcess], tmp_path: Path
) -> None:
    process = start("server", STUBBORN)
    child = int(wait_for_line(tmp_path / "server.log"))
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
    assert process.members() == [child]

    processes.stop(process, pids=tmp_path / "pids")

    assert process.members() == []
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()


@pytest.mark.parametrize(
    "changed", [{"started_ticks": 1}, {"boot_id": "another"}], ids=["reused after a death", "after a reboot"]
)
def test_a_process_that_only_has_the_same_id_is_not_ours(
    start: Callable[..., processes.ManagedProcess], tmp_path: Path, changed: dict[str, Any]
) -> None:
    stranger = start("server", SLEEP)
    claimed = dataclasses.replace(stranger, **changed)
    assert not claimed.is_running
    assert claimed.members() == []

    processes.stop(claimed, pids=tmp_path / "pids")

    assert stranger.is_running
    processes.stop(stranger, pids=tmp_path / "pids")


def test_a_process_that_no_file_could_name_is_ended(
    start: Callable[..., processes.ManagedProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def refuse(name: str, pid: int, *, pids: Path, grace_s: float) -> None:
        started.append(pid)
        raise OSError("no space left on device")

    monkeypatch.setattr(processes, "record", refuse)
    with pytest.raises(OSError, match="no space left"):
        start("server", SLEEP)
    assert os.waitstatus_to_exitcode(os.waitpid(started[0], 0)[1]) == -signal.SIGKILL


SLOW_TO_END = """
import signal, sys, time
def end(*_):
    time.sleep(3)
    print("done", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("begins", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("grace_s", "said"), [(0.3, "begins"), (20.0, "begins\ndone")])
def test_each_process_has_its_own_time_to_end(tmp_path: Path, grace_s: float, said: str) -> None:
    pids, log = tmp_path / "pids", tmp_path / "server.log"
    pids.mkdir()
    command = (sys.executable, "-c", SLOW_TO_END)
    processes.start("server", command, env=os.environ, pids=pids, log=log, grace_s=grace_s)
    wait_for_line(log)
    assert processes.stop_all(processes.find(pids), pids=pids, say=lambda _: None) == 1
    assert log.read_text().strip() == said


STARTS_FOR_EVER = """
import itertools, sys
from pathlib import Path
from include.runtime import processes
from include.runtime.home import REPO

pids = Path(sys.argv[1])
processes.exit_on_signals()
print("begins", flush=True)
for number in itertools.count():
    processes.start(f"n{number}", ("sleep", "60"), env={"PATH": "/usr/bin:/bin"}, pids=pids, log=pids.parent / "log")
"""


def test_whatever_was_started_before_a_signal_to_end_has_its_file(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    for delay_s in (0.001, 0.004, 0.007, 0.011, 0.014, 0.017, 0.021, 0.024, 0.027, 0.031):
        command = [sys.executable, "-c", STARTS_FOR_EVER, str(pids)]
        with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE) as starting:
            assert starting.stdout is not None
            starting.stdout.readline()
            time.sleep(delay_s)
            starting.send_signal(signal.SIGTERM)
        assert starting.returncode == 128 + signal.SIGTERM
        known = processes.find(pids)
        processes.stop_all(known, pids=pids, say=lambda _: None)
    assert [pid for pid in Path("/proc").glob("[0-9]*") if works_in(pid) == tmp_path] == []


def works_in(process: Path) -> Path | None:
    try:
        return (process / "cwd").readlink()
    except OSError:
        return None
