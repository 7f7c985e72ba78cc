"""Start and stop one deployment: database, Airflow's four processes, model server, MLflow."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from include.errors import SetupError
from include.runtime import processes
from include.runtime.airflow_api import AirflowApi
from include.runtime.home import REPO, Home
from include.runtime.pools import ensure_pools
from include.runtime.secrets import load_secrets
from include.runtime.services import LOOPBACK, Deployment, Ports
from include.runtime.state import SUPERVISOR, forget_state, read_state
from include.spec import load_specs, model_names

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from include.runtime.processes import ManagedProcess

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 90.0
"""Longest that the supervisor may take to stop everything."""
MAX_FAILED_STARTS = 3
"""Ends in a row after which `up` says that a process does not start."""
PREPARATIONS = ("migrate", "feast")
"""Commands that run, and end, before the first server starts."""
STAGES = ("monitor", "deploy", "train", "materialize", "rollback", "score", "ingest")
"""Order of unpausing: a paused consumer loses asset events for ever, so the producers come last."""
UPKEEP = ("reconcile", "retain", "sweep")
"""Dags of all models, unpaused after those that they look after."""


def open_deployment(root: Path, *, ports: Ports) -> Deployment:
    """Return the deployment below `root`; its folders and secrets are made when they do not exist.

    Raises:
        SetupError: The folder, its path or its disk cannot be used.
    """
    home = Home(root=root.resolve())
    home.prepare()
    return Deployment(home=home, secrets=load_secrets(home.secrets), ports=ports)


def prepare(deployment: Deployment, *, say: Callable[[str], None]) -> None:
    """Start the database, bring Airflow's tables to this release and Feast's registry to the specs.

    What was done before is not done again.

    Raises:
        SetupError: The database does not start, or the migration fails.
    """
    home = deployment.home
    if deployment.uses_embedded_postgres and processes.DATABASE not in processes.running(home.pids):
        say("starting PostgreSQL")
        deployment.postgres.start()
    # Asking Airflow whether its tables are current costs four seconds; beside our own database we remember.
    release = importlib.metadata.version("apache-airflow-core")
    stamp = home.postgres / "airflow-release"
    if deployment.uses_embedded_postgres and stamp.exists() and stamp.read_text() == release:
        return
    say("migrating Airflow's tables, applying feature definitions")
    env = deployment.airflow_env()
    commands = {
        "migrate": ((sys.executable, "-m", "airflow", "db", "migrate"), env),
        "feast": (
            (sys.executable, "-m", "include.features", "--storage", home.storage.root),
            env | {"PYTHONPATH": str(REPO)},
        ),
    }
    try:
        started = [
            processes.start(name, command, env=env, pids=home.pids, log=home.logs / f"{name}.log")
            for name, (command, env) in commands.items()
        ]
        codes = {process.name: processes.wait(process) for process in started}
    finally:
        for process in processes.find(home.pids):
            if process.name in PREPARATIONS:
                processes.stop(process, pids=home.pids)
    for name, code in codes.items():
        if code != 0:
            log = home.logs / f"{name}.log"
            raise SetupError(f"{name} must end with exit code 0; got {code}. No server was started. See {log}.")
    if deployment.uses_embedded_postgres:
        stamp.write_text(release)


def up(deployment: Deployment, *, say: Callable[[str], None], models: Collection[str] | None = None) -> None:
    """Start what does not run yet, wait until all of it answers, and unpause the Dags.

    Args:
        deployment: What to start.
        say: Told what is happening.
        models: Unpause these models' Dags and no others; None: all Dags, those that look after all models included.

    Raises:
        SetupError: A port is taken, a server ends or does not answer. If none of it ran before, all is stopped again.
    """
    with deployment.home.held():
        _up(deployment, say=say, models=models)


def _up(deployment: Deployment, *, say: Callable[[str], None], models: Collection[str] | None) -> None:
    home = deployment.home
    # A migration that runs has lost the command that began it: only one command works here at a time.
    running = {name: one for name, one in processes.running(home.pids).items() if name not in PREPARATIONS}
    _check_ports(deployment, running)
    is_supervised = SUPERVISOR in running
    try:
        if not is_supervised:
            for process in processes.find(home.pids):
                if process.name not in running:
                    processes.kill(process)  # what it left behind holds its port, or its work
            (home.root / "ports.json").write_text(json.dumps(asdict(deployment.ports)))
            prepare(deployment, say=say)
            _start_supervisor(home)
        _wait_until_ready(deployment, say=say)
        _sign_earlier_versions(deployment, say=say)
        say("unpausing Dags")
        api = AirflowApi(
            base_url=deployment.airflow_url, password=deployment.secrets.admin_password, outage_s=READY_TIMEOUT_S
        )
        ensure_pools(api)
        unpaused = home.root / "unpaused.json"
        known = json.loads(unpaused.read_text()) if unpaused.exists() else []
        stages = STAGES if models is not None else (*STAGES, *UPKEEP)
        known = api.unpause_in_order(
            stages, timeout_s=READY_TIMEOUT_S, known=known, models=models, expected=_expected_dags(models)
        )
        unpaused.write_text(json.dumps(known))
        _require_supervisor(home)  # one that was about to die when this began seemed to run
    except BaseException:
        if not running.keys() - {processes.DATABASE}:  # a deployment that ran already runs on, and is tried for further
            _stop(home, say=say)
        raise


def _sign_earlier_versions(deployment: Deployment, *, say: Callable[[str], None]) -> None:
    """Sign, once, what was registered by a release that signed nothing; each package is verified by its digest."""
    from include.lake.connection import current_storage
    from include.registry.register import sign_unsigned

    stamp = deployment.home.root / "earlier-versions-signed"
    if stamp.exists():
        return
    storage = current_storage(deployment.home.storage)
    for name in model_names():
        for text in sign_unsigned(deployment.mlflow_url, model=name, signer=deployment.home.signer, storage=storage):
            say(text)
    stamp.touch()


def _expected_dags(models: Collection[str] | None) -> list[str]:
    """Return the Dags of the models whose spec can be read: a folder that was just added has none for half a minute."""
    names = [spec.name for spec in load_specs()[0]]
    return [f"{stage}_{name}" for name in names if models is None or name in models for stage in STAGES]


def _start_supervisor(home: Home) -> None:
    forget_state(home)
    processes.start(
        SUPERVISOR,
        (sys.executable, "-m", "include.runtime.supervisor", "--home", str(home.root)),
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"},
        pids=home.pids,
        log=home.logs / f"{SUPERVISOR}.log",
        grace_s=STOP_TIMEOUT_S,
    )


def down(home: Home, *, say: Callable[[str], None]) -> int:
    """Stop exactly the processes that `up` started, the database last; return how many were running.

    Raises:
        SetupError: Another command starts or stops the deployment at this moment.
    """
    if not home.root.exists():
        return 0
    with home.held():
        return _stop(home, say=say)


def _stop(home: Home, *, say: Callable[[str], None]) -> int:
    """Stop the supervisor, which stops what it watches; then what is left of a dead one. Return how many ran."""
    found = processes.find(home.pids)
    num_running = sum(bool(process.members()) for process in found if process.name != SUPERVISOR)
    for supervisor in (process for process in found if process.name == SUPERVISOR):
        say("stopping everything")
        processes.stop(supervisor, pids=home.pids)
    processes.stop_all(processes.find(home.pids), pids=home.pids, say=say)
    return num_running


def _check_ports(deployment: Deployment, running: dict[str, ManagedProcess]) -> None:
    owners = {"airflow": "api-server", "mlflow": "mlflow", "model_server": "model-server"}
    recorded = deployment.home.root / "ports.json"
    used = Ports(**json.loads(recorded.read_text())) if recorded.exists() else deployment.ports
    if running and used != deployment.ports:
        raise SetupError(
            f"{deployment.home.root} runs already, on {used}; got {deployment.ports}. It runs on unchanged. "
            "Set the same ports, or `make down` first."
        )
    for name, port in asdict(deployment.ports).items():
        if owners[name] in running or SUPERVISOR in running:
            continue  # the supervisor's own process may just be starting there again
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                raise SetupError(
                    f"port {port} for {owners[name]} must be free; got: {error.strerror}. Nothing was started. "
                    f"Stop what listens there, or set TRADEWIND_{name.upper()}_PORT to another port."
                ) from error


def _wait_until_ready(deployment: Deployment, *, say: Callable[[str], None]) -> None:
    """Wait for the supervisor to tell that every process works.

    Raises:
        SetupError: One does not in time, or ended too often, or the supervisor ended.
    """
    home = deployment.home
    names = [service.name for service in deployment.services()]
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        told = read_state(home)
        states = {state.name: state for state in told.processes} if told else {}
        waiting = [name for name in names if name not in states or states[name].phase != "ready"]
        if not waiting:
            return
        say(f"waiting for {', '.join(waiting)}")
        if told and not told.is_supervised:
            raise _not_started(home, SUPERVISOR, "keep running; it ended")
        for state in states.values():
            if state.failures >= MAX_FAILED_STARTS:
                raise _not_started(
                    home, state.name, f"keep running; it ended {state.failures} times: {state.last_exit}"
                )
        if time.monotonic() > deadline:
            raise _not_started(home, waiting[0], f"work within {READY_TIMEOUT_S:.0f} s")
        time.sleep(0.1)


def _require_supervisor(home: Home) -> None:
    if SUPERVISOR not in processes.running(home.pids):
        raise _not_started(home, SUPERVISOR, "keep running; it ended")


def _not_started(home: Home, name: str, limit: str) -> SetupError:
    log = home.logs / f"{name}.log"
    tail = log.read_text(errors="replace").strip().splitlines()[-3:] if log.exists() else []
    return SetupError(
        f"{name} must {limit}; got {' | '.join(tail)!r}. A deployment that ran before runs on; else all is stopped. "
        f"See {log}."
    )


def ports_from_environment() -> Ports:
    """Return the default ports, each replaced by its TRADEWIND_*_PORT when set.

    Raises:
        SetupError: One of them is not a port number.
    """
    chosen = {}
    for name, default in asdict(Ports()).items():
        variable = f"TRADEWIND_{name.upper()}_PORT"
        text = os.environ.get(variable, str(default))
        if not text.isdigit() or not 0 < int(text) < 65536:  # noqa: PLR2004 - ports are 16 bits
            raise SetupError(f"{variable} must be 1 to 65535; got {text!r}. Nothing was started. Correct it.")
        chosen[name] = int(text)
    return Ports(**chosen)


def free_ports() -> Ports:
    """Return loopback ports that nobody uses at this moment."""
    listeners = [socket.create_server((LOOPBACK, 0)) for _ in asdict(Ports())]
    numbers = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return Ports(airflow=numbers[0], mlflow=numbers[1], model_server=numbers[2])
