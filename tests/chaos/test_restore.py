"""A living deployment is backed up, destroyed and restored elsewhere, then moved to another database server."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from include.backup.create import create_backup
from include.backup.restore import restore_backup
from include.demo.flights import MODEL, land_month
from include.demo.loop import Loop
from include.features.examples import load_examples
from include.migration.databases import move_databases, target_url
from include.migration.stopped import stopped
from include.runtime import processes, stack
from include.runtime.databases import DATABASES, databases_of
from include.spec import load_spec
from tests.chaos.report import end_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.runtime.services import Deployment

MONTHS = ("2013-01", "2013-02", "2013-03")
LAST = "2013-04"
MAX_FLIGHTS = 1500
SPEC = load_spec(MODEL)
PASSWORD = "password-of-the-other-server"


def quiet(_: str) -> None:
    """Say nothing."""


@pytest.fixture
def deploy(short_tmp_path: Path) -> Iterator[Callable[[str], Deployment]]:
    """Return a function that starts the deployment of a name, on ports of its own; all are stopped in the end."""

    def start(name: str) -> Deployment:
        deployment = stack.open_deployment(short_tmp_path / name, ports=stack.free_ports())
        stack.up(deployment, say=quiet, models=(MODEL,))
        return deployment

    yield start
    for folder in short_tmp_path.iterdir():
        if (folder / "pids").is_dir():
            processes.stop_all(processes.find(folder / "pids"), pids=folder / "pids", say=quiet)


def loop_of(deployment: Deployment, *months: str) -> Loop:
    return Loop(deployment=deployment, months=months, say=quiet, max_flights=MAX_FLIGHTS)


def wait_until_it_works_on(deployment: Deployment, month: str) -> None:
    api = loop_of(deployment).api
    while month not in [run.get("partition_key") for run in api.get("dags/~/dagRuns", state=["running"])["dag_runs"]]:
        time.sleep(0.2)


def ask(deployment: Deployment) -> list[Any]:
    """Return what the server answers about the same flights."""
    server = deployment.model_server()
    rows = load_examples(spec=SPEC, storage=deployment.home.storage, partitions=(MONTHS[0],)).slice(0, 40).to_pydict()
    names = {*(feature.name for feature in SPEC.features.request), *SPEC.features.entities, "example_id"}
    answer = server.infer(model=MODEL, columns={name: rows[name] for name in names}, sticky_key="same")
    return [answer["model_version"], answer["outputs"]]


@pytest.mark.chaos
@pytest.mark.timeout(1500)
def test_what_was_destroyed_goes_on_elsewhere(
    deploy: Callable[[str], Deployment], short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = deploy("live")
    loop_of(live, *MONTHS).run()
    land_month(storage=live.home.storage, partition=LAST, max_flights=MAX_FLIGHTS)
    wait_until_it_works_on(live, LAST)
    archive = short_tmp_path / "backup.tar.zst"
    create_backup(live, archive, say=quiet)
    loop_of(live)._wait_for_event("closed", LAST)
    wanted, answers = end_state(live), ask(live)
    stack.down(live.home, say=quiet)
    shutil.rmtree(live.home.root)

    restore_backup(archive, short_tmp_path / "other", say=quiet)

    other = deploy("other")
    loop_of(other)._wait_for_event("closed", LAST)
    assert other.ports != live.ports
    assert end_state(other) == wanted
    assert ask(other) == answers
    stack.down(other.home, say=quiet)

    monkeypatch.setenv("PGPASSFILE", str(short_tmp_path / "passwords"))
    url = target_url(other_server(short_tmp_path))
    with stopped(other.home):
        move_databases(other, url, say=quiet)
    monkeypatch.setenv("TRADEWIND_DATABASE_URL", url)
    moved = deploy("other")
    assert processes.DATABASE not in processes.running(moved.home.pids)
    assert end_state(moved) == wanted
    assert [event["partition_key"] for event in loop_of(moved).events("closed")][-1] == LAST
    stack.down(moved.home, say=quiet)


def other_server(folder: Path) -> str:
    """Start another PostgreSQL with a user of its own and return its URL."""
    made = stack.open_deployment(folder / "server", ports=stack.free_ports())
    made.postgres.start()
    server = databases_of(made)["airflow"].named("postgres")
    for name in DATABASES:
        server.query(f"DROP DATABASE {name}")
    server.query(f"CREATE ROLE team LOGIN CREATEDB PASSWORD '{PASSWORD}'")
    (folder / "passwords").touch(mode=0o600)
    (folder / "passwords").write_text(f"*:*:*:team:{PASSWORD}\n")
    return f"postgresql://team@/?host={server.parameters['host']}"
