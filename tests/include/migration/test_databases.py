"""Two real PostgreSQL servers: the one of a deployment, and another with a user of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.backup.create import create_backup
from include.backup.restore import restore_backup
from include.errors import BadInputError, CorruptArtifactError, ServiceError, SetupError
from include.migration.databases import move_databases, target_url
from include.migration.stopped import stopped
from include.runtime import processes, stack
from include.runtime.databases import DATABASES, Database, databases_of, databases_running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.runtime.services import Deployment

PASSWORD = "secret of the other server"
ROWS = 500


def stop(deployment: Deployment) -> None:
    for process in processes.find(deployment.home.pids):
        processes.stop(process, pids=deployment.home.pids, how=signal.SIGINT)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Return a folder that leaves room for a Unix socket, for all tests of this file."""
    path = Path(tempfile.mkdtemp(prefix="tw-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def source(folder: Path) -> Iterator[Deployment]:
    """Return a stopped deployment whose databases hold something of each kind that a text comparison could miss."""
    made = stack.open_deployment(folder / "live", ports=stack.free_ports())
    with databases_running(made) as databases:
        databases["airflow"].query(
            "CREATE TABLE dag_run (id serial PRIMARY KEY, conf json, at timestamptz, data bytea, score float8);"
            "INSERT INTO dag_run (conf, at, data, score) SELECT json_build_object('n', n, 'text', 'é''\\' || n), "
            "'2013-01-01Z'::timestamptz + n * interval '1 hour', decode(md5(n::text), 'hex'), n / 3.0::float8 "
            f"FROM generate_series(1, {ROWS}) AS n; CREATE TABLE empty (a int)"
        )
        databases["mlflow"].query("CREATE TABLE runs AS SELECT 'r' || n AS id FROM generate_series(1, 10) AS n")
    yield made
    stop(made)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Database]:
    """Run another server, of an older major version, on which user `team` may make databases.

    The wheel has PostgreSQL 16 too. The user's password is in the folder's file `passwords`.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("include.runtime.postgres.RELEASE_FOLDER", "pginstall")
        made = stack.open_deployment(folder / "other", ports=stack.free_ports())
        made.postgres.start()
    found = databases_of(made)["airflow"].named("postgres")
    found.query(f"CREATE ROLE team LOGIN CREATEDB PASSWORD '{PASSWORD}'")
    (folder / "passwords").touch(mode=0o600)
    (folder / "passwords").write_text(f"*:*:*:team:{PASSWORD}\n")
    [(version,)] = found.query("SHOW server_version")
    assert version.startswith("16.")
    yield found
    stop(made)


@pytest.fixture
def other(server: Database, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of the other server, without any of our databases; the password is in a file."""
    for name in DATABASES:
        server.query(f"DROP DATABASE IF EXISTS {name}")
    monkeypatch.setenv("PGPASSFILE", str(folder / "passwords"))
    return f"postgresql://team@/?host={server.parameters['host']}"


def quiet(_: str) -> None:
    """Say nothing."""


def at(url: str, name: str) -> Database:
    return Database.from_url(target_url(url).replace("{database}", name))


def test_databases_move_and_the_source_stays(source: Deployment, other: str) -> None:
    with databases_running(source) as databases:
        before = {name: database.contents() for name, database in databases.items()}
    with stopped(source.home):
        moved = move_databases(source, target_url(other), say=quiet)
    assert [(found.name, found.num_rows, found.is_new) for found in moved] == [
        ("airflow", ROWS, True),
        ("mlflow", 10, True),
    ]
    assert at(other, "airflow").contents() == before["airflow"]
    assert at(other, "airflow").query("SELECT nextval('dag_run_id_seq')") == [(ROWS + 1,)]
    with databases_running(source) as databases:
        assert {name: database.contents() for name, database in databases.items()} == before
    assert processes.find(source.home.pids) == []


def test_a_moved_deployment_is_backed_up_and_restored_there(
    source: Deployment, other: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = target_url(other)
    with stopped(source.home):
        move_databases(source, url, say=quiet)
    monkeypatch.setenv("TRADEWIND_DATABASE_URL", url)
    create_backup(source, folder / "moved.tar.zst", say=quiet)
    with pytest.raises(SetupError, match="must be empty to be filled"):
        restore_backup(folder / "moved.tar.zst", folder / "restored", say=quiet)
    assert not (folder / "restored").exists()
    before = at(other, "airflow").contents()
    for name in DATABASES:
        at(other, "postgres").query(f"DROP DATABASE {name}")
        at(other, "postgres").create(name)
    restore_backup(folder / "moved.tar.zst", folder / "restored", say=quiet)
    assert at(other, "airflow").contents() == before
    assert not (folder / "restored" / "pg").exists()


def test_a_second_call_changes_nothing_and_sees_what_went_on(source: Deployment, other: str) -> None:
    url = target_url(other)
    with stopped(source.home):
        move_databases(source, url, say=quiet)
        assert not any(found.is_new for found in move_databases(source, url, say=quiet))
        at(other, "airflow").query("DELETE FROM dag_run WHERE id = 7")
        with pytest.raises(CorruptArtifactError, match=f"'dag_run': {ROWS - 1} rows for {ROWS}"):
            move_databases(source, url, say=quiet)
    assert at(other, "airflow").query("SELECT count(*) FROM dag_run") == [(ROWS - 1,)]


def test_a_move_that_was_cut_off_goes_on(source: Deployment, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = target_url(other)

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    with stopped(source.home):
        with monkeypatch.context() as patched:
            patched.setattr("include.migration.databases._Move._require_equal", power_cut)
            with pytest.raises(KeyboardInterrupt):
                move_databases(source, url, say=quiet)
        at(other, "airflow").query("DELETE FROM dag_run WHERE id > 100")  # half of it, as if it had been torn
        moved = move_databases(source, url, say=quiet)
    assert [found.is_new for found in moved] == [True, True]
    assert at(other, "airflow").query("SELECT count(*) FROM dag_run") == [(ROWS,)]


def test_the_tables_of_others_are_not_touched(source: Deployment, other: str) -> None:
    at(other, "postgres").create("mlflow")
    at(other, "mlflow").query("CREATE TABLE theirs AS SELECT 1 AS kept")
    with (
        stopped(source.home),
        pytest.raises(SetupError, match="must be empty to be filled; got 1 tables, such as 'theirs'"),
    ):
        move_databases(source, target_url(other), say=quiet)
    assert at(other, "mlflow").query("SELECT kept FROM theirs") == [(1,)]


def test_a_running_deployment_is_not_moved(source: Deployment) -> None:
    with databases_running(source), pytest.raises(SetupError, match="only one command at a time"), stopped(source.home):
        pass
    sleeper = processes.start(
        "scheduler",
        ("sleep", "60"),
        env={"PATH": os.environ["PATH"]},
        pids=source.home.pids,
        log=source.home.logs / "x",
    )
    with pytest.raises(SetupError, match="must be stopped to be moved; got scheduler running"), stopped(source.home):
        pass
    processes.stop(sleeper, pids=source.home.pids)


def test_a_server_that_refuses_is_said_without_the_password(source: Deployment, other: str) -> None:
    wrong = Database(parameters=at(other, "postgres").parameters, password="no such password")
    with pytest.raises(ServiceError, match=r"must let 'team' in; got: .*password authentication failed") as caught:
        wrong.tables()
    assert "no such password" not in f"{caught.value!r}{wrong!r}{wrong}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgresql://me:hunter2@host", "must hold no password"),
        ("postgresql://me@host?password=hunter2", "must hold no password"),
        ("mysql://me@host", "got the scheme 'mysql'"),
        ("postgresql://me@host/airflow", "got the database 'airflow'"),
    ],
)
def test_a_target_that_is_none_is_refused_without_its_secret(text: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said) as caught:
        target_url(text)
    assert "hunter2" not in str(caught.value)


def test_the_command_says_what_to_set(source: Deployment, other: str) -> None:
    command = [sys.executable, "-m", "include.cli", "migrate", "--to", other, "--home", str(source.home.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert f"TRADEWIND_DATABASE_URL='{target_url(other)}'" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    assert json.loads((source.home.secrets / "secrets.json").read_text())["postgres_password"] not in done.stdout
    assert PASSWORD not in " ".join(os.environ.values())
