import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest

from include.errors import SetupError
from include.runtime import __main__ as command
from include.runtime import processes, stack
from include.runtime.home import MAX_SOCKET_BYTES, REPO, Home
from include.runtime.secrets import load_secrets
from include.serving.ending import END_S
from include.spec import load_specs


def test_everything_below_home_is_private(tmp_path: Path) -> None:
    deployment = stack.open_deployment(tmp_path / "home", ports=stack.free_ports())
    home = deployment.home
    for folder in (home.data, home.secrets, home.logs, home.ledger.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in home.secrets.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_secrets_are_made_once_and_shown_never(tmp_path: Path) -> None:
    first = load_secrets(tmp_path)
    assert load_secrets(tmp_path) == first
    assert first.admin_password not in repr(first)
    assert json.loads((tmp_path / "airflow_passwords.json").read_text())["admin"] == first.admin_password


def test_damaged_secrets_are_refused_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{}")
    with pytest.raises(SetupError, match="must hold the deployment's secrets"):
        load_secrets(tmp_path)
    assert (tmp_path / "secrets.json").read_text() == "{}"


def test_no_command_line_holds_a_secret(tmp_path: Path) -> None:
    deployment = stack.open_deployment(tmp_path / "home", ports=stack.free_ports())
    secret_values = json.loads((deployment.home.secrets / "secrets.json").read_text()).values()
    words = [word for service in deployment.services() for word in service.command]
    words += deployment.postgres.command()
    assert not [word for word in words if any(value in word for value in secret_values)]


def test_only_the_triggerer_and_the_api_server_have_the_repository_on_their_path(tmp_path: Path) -> None:
    deployment = stack.open_deployment(tmp_path / "home", ports=stack.free_ports())
    with_path = {s.name for s in deployment.services() if "PYTHONPATH" in s.env and s.name != "model-server"}
    assert with_path == {"triggerer", "api-server"}


def test_each_server_has_the_time_that_it_takes_to_end_and_the_supervisor_the_time_to_wait(tmp_path: Path) -> None:
    services = stack.open_deployment(tmp_path / "home", ports=stack.free_ports()).services()
    grace_s = {service.name: service.grace_s for service in services}
    assert grace_s["model-server"] > END_S
    killed_s = 2 * 2.0 * len(services)  # SIGTERM and SIGKILL to what is left of each
    assert grace_s.pop("postgres") + max(grace_s.values()) + killed_s < stack.STOP_TIMEOUT_S


@pytest.mark.parametrize("num_bytes", [MAX_SOCKET_BYTES, MAX_SOCKET_BYTES + 1])
def test_a_path_that_is_too_long_for_a_socket_is_refused(short_tmp_path: Path, num_bytes: int) -> None:
    root = short_tmp_path / ("x" * (num_bytes - len(f"{short_tmp_path}//pg/run/.s.PGSQL.5432")))
    if num_bytes <= MAX_SOCKET_BYTES:
        Home(root=root).prepare()
    else:
        with pytest.raises(SetupError, match="socket path may have 107 bytes; got 108"):
            Home(root=root).prepare()
        assert not root.exists()


def test_a_full_disk_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.runtime.home.MIN_FREE_BYTES", 1 << 62)
    with pytest.raises(SetupError, match="MiB free; got"):
        Home(root=tmp_path / "home").prepare()


def test_a_taken_port_names_itself_and_the_remedy(tmp_path: Path) -> None:
    ports = stack.free_ports()
    deployment = stack.open_deployment(tmp_path / "home", ports=ports)
    with socket.create_server(("127.0.0.1", ports.mlflow)), pytest.raises(SetupError) as caught:
        stack.up(deployment, say=lambda _: None)
    assert f"port {ports.mlflow} for mlflow must be free" in str(caught.value)
    assert "TRADEWIND_MLFLOW_PORT" in str(caught.value)
    assert not list(deployment.home.pids.iterdir())


def test_a_running_deployment_keeps_its_ports(tmp_path: Path) -> None:
    deployment = stack.open_deployment(tmp_path / "home", ports=stack.free_ports())
    home = deployment.home
    (home.root / "ports.json").write_text(json.dumps(asdict(stack.free_ports())))
    sleeper = processes.start(
        "scheduler", (sys.executable, "-c", "import time; time.sleep(60)"), env={}, pids=home.pids, log=home.logs / "x"
    )
    with pytest.raises(SetupError, match=r"runs already, on .* Set the same ports"):
        stack.up(deployment, say=lambda _: None)
    assert sleeper.is_running
    assert stack.down(home, say=lambda _: None) == 1


def test_a_deployment_that_ran_already_survives_an_up_that_fails(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEWIND_DATABASE_URL", f"postgresql+psycopg2://nobody@/{{database}}?host={short_tmp_path}")
    deployment = stack.open_deployment(short_tmp_path / "home", ports=stack.free_ports())
    home = deployment.home
    sleep = (sys.executable, "-c", "import time; time.sleep(600)")
    sleeper = processes.start("model-server", sleep, env={}, pids=home.pids, log=home.logs / "x")
    with pytest.raises(SetupError, match="migrate must end with exit code 0"):
        stack.up(deployment, say=lambda _: None)
    assert sleeper.is_running
    assert stack.down(home, say=lambda _: None) == 1


def test_two_commands_never_work_on_one_deployment_at_once(tmp_path: Path) -> None:
    deployment = stack.open_deployment(tmp_path / "home", ports=stack.free_ports())
    with deployment.home.held(), pytest.raises(SetupError, match="only one command at a time"):
        stack.up(deployment, say=lambda _: None)
    assert stack.down(deployment.home, say=lambda _: None) == 0


@pytest.mark.parametrize("text", ["0", "65536", "http"])
def test_a_port_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEWIND_AIRFLOW_PORT", text)
    with pytest.raises(SetupError, match="TRADEWIND_AIRFLOW_PORT must be 1 to 65535"):
        stack.ports_from_environment()


def test_up_says_which_model_has_no_dags_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    shutil.copytree(REPO / "include/models/flight_delays", models / "flight_delays")
    (models / "broken").mkdir()
    (models / "broken" / "model.yaml").write_text("name: [broken\n")
    monkeypatch.setattr(stack, "up", lambda *_, **__: None)
    monkeypatch.setattr(command, "load_specs", partial(load_specs, models))
    assert command.main(["up", "--home", str(tmp_path / "home")]) == 0
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert f"{models}/broken/model.yaml" in warning


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_up_that_is_told_to_end_leaves_nothing_running(short_tmp_path: Path, number: signal.Signals) -> None:
    home = short_tmp_path / "home"
    command = [sys.executable, "-m", "include.runtime", "up", "--home", str(home)]
    ports = {f"TRADEWIND_{name.upper()}_PORT": str(port) for name, port in asdict(stack.free_ports()).items()}
    starting = subprocess.Popen(command, env={**os.environ, **ports}, cwd=REPO, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (home / "logs" / "migrate.log").exists() and time.monotonic() < deadline:
        time.sleep(0.05)

    starting.send_signal(number)

    assert starting.wait(timeout=30) == 128 + number
    assert processes.find(home / "pids") == []
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if str(home).encode() in _environment(pid)]


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
    except OSError:
        return b""
