"""Fixtures shared by all tests: a lake on a temporary folder, real months of flights, Airflow's connections."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.lake.storage import Storage
from tests.fakes import FakeSlack
from tests.running import TOKEN, RolloutWorld, RunningModelServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.runtime.services import Deployment


@pytest.fixture
def landed(storage: Storage) -> Callable[..., None]:
    """Return a function that lands a real month, the first `num_flights` of it or all."""
    from include.demo.flights import land_month

    def land(partition: str, num_flights: int | None = None) -> None:
        land_month(storage=storage, partition=partition, max_flights=num_flights)

    return land


@pytest.fixture
def connections(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point Tradewind's connections at the temporary lake and ledger."""
    lake = {"conn_type": "fs", "extra": {"path": storage.root}}
    ledger = {"conn_type": "sqlite", "host": str(tmp_path / "ledger.sqlite")}
    monkeypatch.setenv("AIRFLOW_CONN_TRADEWIND_LAKE", json.dumps(lake))
    monkeypatch.setenv("AIRFLOW_CONN_TRADEWIND_LEDGER", json.dumps(ledger))


@pytest.fixture
def short_tmp_path() -> Iterator[Path]:
    """Return a temporary folder whose path leaves room for a Unix socket, and which other users can enter."""
    path = Path(tempfile.mkdtemp(prefix="tw-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def deployment(short_tmp_path: Path) -> Iterator[Deployment]:
    """Run everything that `make up` runs, with the flights' Dags alone, on ports of its own; takes half a minute."""
    from include.demo.flights import MODEL
    from include.runtime import stack

    made = stack.open_deployment(short_tmp_path / "e", ports=stack.free_ports())
    try:
        stack.up(made, say=lambda _: None, models=(MODEL,))
        yield made
    finally:
        stack.down(made.home, say=lambda _: None)


@pytest.fixture(scope="session")
def _shared_model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningModelServer]:
    folder = tmp_path_factory.mktemp("model_server")
    server = RunningModelServer(folder=folder, storage=Storage(root=str(folder / "data")))
    yield server
    server.stop()


@pytest.fixture
def model_server(_shared_model_server: RunningModelServer) -> RunningModelServer:
    """Run the model server with an online store that knows some entities; nothing is deployed yet.

    All tests of this process share it; each gets it empty, and a new one after a test that ended it.
    """
    _shared_model_server.reset()
    return _shared_model_server


@pytest.fixture
def rollout_world(
    model_server: RunningModelServer,
    mlflow_url: str,
    connections: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> RolloutWorld:
    """Return an empty model server, model registry and ledger, to which Airflow's default connections point."""
    address = {"conn_type": "http", "host": "127.0.0.1"}
    server = {**address, "port": model_server.port, "password": TOKEN}
    registry = {**address, "port": int(mlflow_url.rpartition(":")[2])}
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_SERVER_DEFAULT", json.dumps(server))
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(registry))
    world = RolloutWorld(server=model_server, mlflow_url=mlflow_url, folder=tmp_path)
    world.forget()
    return world


@pytest.fixture
def slack() -> Iterator[FakeSlack]:
    """Yield a server on loopback that speaks Slack's chat.postMessage."""
    fake = FakeSlack()
    server = fake.start()
    yield fake
    fake.stopped.set()
    server.shutdown()
    server.server_close()
