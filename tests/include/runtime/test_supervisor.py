"""The supervisor with real processes: small stand-ins for the servers, and once a whole deployment."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.runtime import processes, stack
from include.runtime.checks import Answers
from include.runtime.home import Home
from include.runtime.logs import LogLimits
from include.runtime.restarts import Health, RestartPolicy
from include.runtime.services import Service
from include.runtime.state import SUPERVISOR, ProcessState, read_state
from include.runtime.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

POLICY = RestartPolicy(
    first_delay_s=0.1, max_delay_s=0.4, forgiven_after_s=60, silent_after_s=0.8, start_timeout_s=5, check_interval_s=0.1
)
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args):
        print(*args, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
SLEEP = "import time; time.sleep(60)"
SPAWN_AND_SLEEP = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); time.sleep(60)"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def always_ok(*, since: datetime) -> Health:
    return Health.OK


def program(name: str, code: str, *arguments: str, **changes: object) -> Service:
    given: dict[str, object] = {"check": always_ok, "env": dict(os.environ), **changes}
    return Service(name=name, command=(sys.executable, "-c", code, *arguments), **given)  # type: ignore[arg-type]


def server(name: str = "server", **changes: object) -> Service:
    port = free_port()
    check = Answers(url=f"http://127.0.0.1:{port}/", timeout_s=0.3)
    return program(name, SERVER, str(port), check=check, **changes)


@dataclass
class World:
    """A home, and the supervisors that a test runs in it."""

    home: Home
    running: list[tuple[Supervisor, threading.Thread]] = field(default_factory=list)

    def supervise(self, *services: Service, **changes: object) -> Supervisor:
        supervisor = Supervisor(home=self.home, services=services, **{"policy": POLICY, **changes})  # type: ignore[arg-type]
        processes.record(SUPERVISOR, os.getpid(), pids=self.home.pids)
        thread = threading.Thread(target=supervisor.run, daemon=True)
        thread.start()
        self.running.append((supervisor, thread))
        return supervisor

    def stop(self) -> None:
        for supervisor, thread in self.running:
            supervisor.is_stopping = True
            thread.join()
            (self.home.pids / f"{SUPERVISOR}.json").unlink()
        self.running.clear()

    def state(self, name: str) -> ProcessState:
        return self.wait(name, lambda _: True)

    def wait(self, name: str, until: Callable[[ProcessState], bool]) -> ProcessState:
        deadline = time.monotonic() + 15
        while True:
            told = read_state(self.home)
            states = [state for state in told.processes if state.name == name] if told else []
            if states and until(states[0]):
                return states[0]
            if time.monotonic() > deadline:
                raise TimeoutError(states)
            time.sleep(0.02)

    def ready(self, name: str, *, restarts: int = 0) -> ProcessState:
        return self.wait(name, lambda state: state.phase == "ready" and state.restarts >= restarts)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    home = Home(root=tmp_path)
    for folder in (home.logs, home.pids):
        folder.mkdir()
    made = World(home=home)
    yield made
    made.stop()
    assert not processes.find(home.pids)


def kill(state: ProcessState, how: signal.Signals = signal.SIGKILL) -> None:
    assert state.pid
    os.kill(state.pid, how)


def exists(pid: int) -> bool:
    """Return whether a process is there, a zombie included."""
    return Path(f"/proc/{pid}").exists()


def test_what_is_killed_runs_again_and_is_told(world: World) -> None:
    world.supervise(server())
    first = world.ready("server")

    kill(first)
    second = world.ready("server", restarts=1)

    assert second.pid != first.pid
    assert (second.last_exit, second.failures) == ("SIGKILL", 1)
    assert first.pid
    assert not exists(first.pid)


def test_a_crash_loop_waits_longer_each_time_and_others_run_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world.supervise(program("broken", "import sys; sys.exit(3)"), server())
    calm = world.ready("server")

    broken = world.wait("broken", lambda state: state.failures >= 4)

    assert broken.last_exit == "exit code 3"
    delays = [text.rpartition(" in ")[2] for text in caplog.messages if text.startswith("broken (")]
    assert delays[:4] == ["0.1 s", "0.2 s", "0.4 s", "0.4 s"]
    assert world.state("server") == calm


def test_a_process_that_served_well_begins_with_the_shortest_pause(world: World) -> None:
    patient = RestartPolicy(first_delay_s=0.05, max_delay_s=5, forgiven_after_s=0, check_interval_s=0.05)
    world.supervise(server(), policy=patient)
    for restarts in range(4):
        kill(world.ready("server", restarts=restarts))
    assert world.ready("server", restarts=4).failures == 1


def silence_s(state: ProcessState) -> int:
    """Return for how long a process that was replaced had been silent, to the second."""
    found = re.fullmatch(r"silent for (\d+) s", state.last_exit or "")
    assert found, state
    return int(found[1])


def test_a_process_that_hangs_is_replaced(world: World) -> None:
    world.supervise(server())
    first = world.ready("server")

    kill(first, signal.SIGSTOP)

    second = world.ready("server", restarts=1)
    assert silence_s(second) >= round(POLICY.silent_after_s) == 1
    assert second.pid != first.pid


def test_a_process_that_never_gets_ready_is_replaced(world: World) -> None:
    never = Answers(url=f"http://127.0.0.1:{free_port()}/", timeout_s=0.1)
    impatient = RestartPolicy(first_delay_s=0.1, start_timeout_s=0.6, check_interval_s=0.1)
    world.supervise(program("mute", SLEEP, check=never), policy=impatient)
    assert silence_s(world.wait("mute", lambda state: state.restarts >= 1)) >= round(impatient.start_timeout_s) == 1


def test_what_a_dead_process_left_is_ended_before_the_next_start(world: World) -> None:
    world.supervise(program("parent", SPAWN_AND_SLEEP))
    first = world.ready("parent")
    members: list[int] = []
    while len(members) < 2:
        members = next(p for p in processes.find(world.home.pids) if p.name == "parent").members()

    kill(first)
    world.ready("parent", restarts=1)

    assert not [pid for pid in members if _is_alive(pid)]


def _is_alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_nothing_starts_or_is_to_blame_without_the_server_it_needs(world: World) -> None:
    away_for_3_s = RestartPolicy(first_delay_s=3, check_interval_s=0.1)
    world.supervise(server("database"), program("client", SLEEP, needs=("database",)), policy=away_for_3_s)
    needed, client = world.ready("database"), world.ready("client")

    kill(needed)
    world.wait("database", lambda state: state.pid is None)
    kill(client)

    assert world.wait("client", lambda state: state.last_exit == "SIGKILL").failures == 0
    restarted = world.ready("client", restarts=1)
    assert world.state("database").since <= restarted.since  # type: ignore[operator]


def test_a_program_that_is_not_there_is_said_and_tried_again(world: World) -> None:
    def refuse() -> None:
        raise OSError("no such thing")

    world.supervise(program("absent", SLEEP, before_start=refuse))
    state = world.wait("absent", lambda state: state.failures >= 2)
    assert state.last_exit == "could not be started: no such thing"
    assert state.next_try


def test_a_broken_check_ends_nothing(world: World) -> None:
    asked: list[datetime] = []

    def check(*, since: datetime) -> Health:
        asked.append(since)
        raise ValueError("broken")

    world.supervise(program("sleeper", SLEEP, check=check))
    started = world.wait("sleeper", lambda state: state.phase == "starting")
    deadline = time.monotonic() + 15
    while len(asked) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert world.state("sleeper") == started


def test_stopping_ends_everything_though_one_is_about_to_be_restarted(world: World) -> None:
    slow = RestartPolicy(first_delay_s=60, max_delay_s=60, check_interval_s=0.1)
    world.supervise(server(), program("parent", SPAWN_AND_SLEEP), policy=slow)
    first, parent = world.ready("server"), world.ready("parent")
    kill(first)
    world.wait("server", lambda state: state.next_try is not None)

    world.stop()

    assert processes.find(world.home.pids) == []
    assert parent.pid
    assert not exists(parent.pid)
    told = read_state(world.home)
    assert told
    assert not told.is_supervised
    assert {state.phase for state in told.processes} == {"stopped"}


def test_a_log_that_grew_too_large_is_rotated(world: World) -> None:
    chatty = "import time\nprint('x' * 5000, flush=True)\ntime.sleep(60)"
    world.supervise(program("chatty", chatty), limits=LogLimits(max_bytes=5000), rotate_every_s=0)
    rotated = world.home.logs / "chatty.log.1"
    deadline = time.monotonic() + 15
    while not (rotated.exists() and rotated.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(rotated.read_text()) == 5001
    assert world.ready("chatty").restarts == 0


STANDALONE = """
import sys
from pathlib import Path
from include.runtime.home import Home
from include.runtime.restarts import Health, RestartPolicy
from include.runtime.services import Service
from include.runtime.supervisor import Supervisor, supervise
service = Service(name="sleeper", command=(sys.executable, "-c", "import time; time.sleep(60)"), env={},
                  check=lambda *, since: Health.OK)
sys.exit(supervise(Supervisor(home=Home(root=Path(sys.argv[1])), services=(service,), policy=RestartPolicy())))
"""


def standalone(world: World) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", STANDALONE, str(world.home.root)], cwd=Path(__file__).parents[3])


def test_a_killed_supervisor_leaves_its_processes_to_the_next(world: World) -> None:
    first = standalone(world)
    sleeper = world.ready("sleeper")
    first.kill()
    first.wait()

    second = standalone(world)
    (world.home.root / "state.json").unlink()
    adopted = world.ready("sleeper")
    third = standalone(world)
    assert third.wait(timeout=20) == 75  # one supervisor a deployment
    assert adopted.pid == sleeper.pid

    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=20) == 0
    assert sleeper.pid
    assert not _is_alive(sleeper.pid)
    assert processes.find(world.home.pids) == []


@pytest.fixture
def deployment_home(short_tmp_path: Path) -> Iterator[Path]:
    root = short_tmp_path / "home"
    yield root
    stack.down(Home(root=root), say=lambda _: None)


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_deployment_survives_its_processes_and_leaves_nothing(deployment_home: Path) -> None:
    deployment = stack.open_deployment(deployment_home, ports=stack.free_ports())
    home = deployment.home
    interrupt_when_servers_start(home, ports=asdict(deployment.ports))
    assert processes.find(home.pids) == []

    stack.up(deployment, say=lambda _: None)
    for name in ("postgres", "scheduler", "model-server"):
        before = processes.running(home.pids)[name]
        os.kill(before.pid, signal.SIGKILL)
        deadline = time.monotonic() + 120
        while not _all_ready(home, other_than=before.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
    with urllib.request.urlopen(f"{deployment.airflow_url}/api/v2/monitor/health", timeout=20) as response:
        health = json.loads(response.read())
    assert {part["status"] for part in health.values()} == {"healthy"}
    started = processes.running(home.pids)

    assert stack.down(home, say=lambda _: None) == len(started) - 1  # the supervisor is not counted

    assert not [process.name for process in started.values() if process.members()]
    assert processes.find(home.pids) == []


def interrupt_when_servers_start(home: Home, *, ports: dict[str, int]) -> None:
    command = [sys.executable, "-m", "include.runtime", "up", "--home", str(home.root)]
    env = {**os.environ, **{f"TRADEWIND_{name.upper()}_PORT": str(port) for name, port in ports.items()}}
    starting = subprocess.Popen(command, env=env, cwd=Path(__file__).parents[3], stdout=subprocess.DEVNULL)
    try:
        while starting.poll() is None and "scheduler" not in processes.running(home.pids):
            time.sleep(0.1)
        started = processes.running(home.pids)
        assert SUPERVISOR in started
        starting.send_signal(signal.SIGINT)
        assert starting.wait(timeout=120) == 130
    finally:
        starting.kill()
        starting.wait()
    assert not [process.name for process in started.values() if process.members()]


def _all_ready(home: Home, *, other_than: int) -> bool:
    told = read_state(home)
    return told is not None and all(s.phase == "ready" and s.pid != other_than for s in told.processes)
