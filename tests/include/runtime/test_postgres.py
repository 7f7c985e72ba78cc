import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from include.errors import SetupError
from include.runtime import processes, stack
from include.runtime.processes import ManagedProcess
from include.runtime.services import Deployment


def start(deployment: Deployment) -> ManagedProcess:
    home, server = deployment.home, deployment.postgres
    server.create()
    server.forget_stale_pid()
    process = processes.start(
        "postgres", server.command(), env={"PATH": os.environ["PATH"]}, pids=home.pids, log=home.logs / "postgres.log"
    )
    server.wait_until_ready(("airflow", "mlflow"))
    return process


@pytest.fixture
def deployment(short_tmp_path: Path) -> Iterator[Deployment]:
    made = stack.open_deployment(short_tmp_path / "home", ports=stack.free_ports())
    yield made
    stack.down(made.home, say=lambda _: None)


_ASK_FOR_ITS_USER = """
import sys
from include.runtime import postgres

postgres.SYSTEM_USER = "tradewind-test"
print("ready", flush=True)
sys.stdin.readline()
print(*postgres._server_user())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes a system user")
def test_processes_that_start_at_once_agree_on_its_user() -> None:
    command = [sys.executable, "-c", _ASK_FOR_ITS_USER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    asking = [subprocess.Popen(command, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    try:
        for process in asking:
            assert process.stdout.readline() == "ready\n"
        for process in asking:
            process.stdin.write("\n")
            process.stdin.flush()
        found = {process.communicate()[0] for process in asking}
        entry = pwd.getpwnam("tradewind-test")
        assert found == {f"{entry.pw_uid} {entry.pw_gid}\n"}
    finally:
        subprocess.run(["userdel", "tradewind-test"], check=True)


def connect(deployment: Deployment, password: str) -> psycopg2.extensions.connection:
    host = str(deployment.home.postgres / "run")
    return psycopg2.connect(host=host, user="tradewind", dbname="airflow", password=password)


def test_it_asks_for_the_password_and_listens_on_no_port(deployment: Deployment) -> None:
    start(deployment)
    with connect(deployment, deployment.secrets.postgres_password) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW listen_addresses")
        assert cursor.fetchone() == ("",)
    connection.close()
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        connect(deployment, "wrong")


def test_data_survive_a_kill_and_a_restart(deployment: Deployment) -> None:
    process = start(deployment)
    with connect(deployment, deployment.secrets.postgres_password) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    connection.close()
    os.kill(process.pid, signal.SIGKILL)
    # Not waited for: as a zombie it still counts as a process, and PostgreSQL's lock files name it.
    time.sleep(0.5)
    (deployment.home.pids / "postgres.json").unlink()

    start(deployment)

    with connect(deployment, deployment.secrets.postgres_password) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT answer FROM kept")
        assert cursor.fetchone() == (42,)
    connection.close()


def test_a_stale_pid_file_that_names_a_living_stranger_does_not_stop_it(deployment: Deployment) -> None:
    deployment.postgres.create()
    stale = deployment.home.postgres / "data" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{stale.parent}\n")
    assert start(deployment).is_running


def test_another_database_is_used_by_its_url(
    deployment: Deployment, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(deployment)
    monkeypatch.setenv(
        "TRADEWIND_DATABASE_URL", deployment.postgres.url("airflow").replace("/airflow?", "/{database}?")
    )
    other = stack.open_deployment(short_tmp_path / "other", ports=stack.free_ports())

    stack.prepare(other, say=lambda _: None)

    assert processes.find(other.home.pids) == []
    assert not other.home.postgres.exists()
    with connect(deployment, deployment.secrets.postgres_password) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM information_schema.tables WHERE table_name IN ('dag_run', 'asset_event')")
        assert cursor.fetchone() == (2,)
    connection.close()


def test_a_database_that_does_not_answer_is_said(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"postgresql+psycopg2://nobody:hunter2@/{{database}}?host={short_tmp_path}"
    monkeypatch.setenv("TRADEWIND_DATABASE_URL", url)
    deployment = stack.open_deployment(short_tmp_path / "other", ports=stack.free_ports())
    with pytest.raises(SetupError, match="migrate must end with exit code 0") as caught:
        stack.prepare(deployment, say=lambda _: None)
    assert "hunter2" not in str(caught.value) + "".join(log.read_text() for log in deployment.home.logs.glob("*.log"))


def test_a_database_that_its_supervisor_is_about_to_start_again_is_left_to_it(deployment: Deployment) -> None:
    home, env = deployment.home, {"PATH": os.environ["PATH"]}
    processes.start("supervisor", ("sleep", "60"), env=env, pids=home.pids, log=home.logs / "x")
    said = "must run beside supervisor; it does not at this moment"
    with pytest.raises(SetupError, match=said), deployment.postgres.running():
        pass
    assert not home.postgres.exists()
