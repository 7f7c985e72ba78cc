"""The admin token is rotated on a deployment's own model server, while others use it."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from include.cli.app import app
from include.cli.deployment import find_deployment
from include.errors import SetupError, TradewindError
from include.runtime.home import REPO
from include.serving.client import ModelServerClient
from operators.hooks.model_server import ModelServerHook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.runtime.home import Home
    from include.runtime.services import Deployment

NUM_ROTATIONS = 20


@pytest.fixture
def deployment(home: Home, tmp_path: Path) -> Iterator[Deployment]:
    """Return a deployment of which only the model server runs, by the deployment's own command."""
    found = find_deployment(home.root)
    (service,) = (service for service in found.services() if service.name == "model-server")
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(service.command, env=service.env, cwd=REPO, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not found.model_server().is_ready():
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield found
    finally:
        process.kill()
        process.wait(timeout=10)


def rotate(home: Home) -> str:
    done = CliRunner().invoke(app, ["token", "rotate", "--home", str(home.root)])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_rotated_token_is_taken_at_once_and_the_old_one_refused(
    deployment: Deployment, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = home.model_server_token.read_text()
    for name, value in deployment._connections().items():
        monkeypatch.setenv(name, value)
    task = ModelServerHook().get_conn()  # a task that began before the rotation, and goes on after it
    task.get_all_routes()
    assert "A running model server takes the new token" in rotate(home)
    new = home.model_server_token.read_text()
    assert new not in (old, "")
    assert home.model_server_token.stat().st_mode & 0o777 == 0o600
    task.get_all_routes()
    ModelServerClient(base_url=deployment.model_server_url, admin_token=new).get_all_routes()
    with pytest.raises(SetupError, match="got 401"):
        ModelServerClient(base_url=deployment.model_server_url, admin_token=old).get_all_routes()
    assert find_deployment(home.root).home.model_server_token.read_text() == new  # opening it makes no other


def test_no_call_fails_while_the_token_is_rotated(deployment: Deployment, home: Home) -> None:
    failures: list[TradewindError] = []
    calls = [0, 0]
    done = threading.Event()

    def ask(number: int) -> None:
        client = deployment.model_server()
        while not done.is_set():
            try:
                client.get_all_routes()
            except TradewindError as error:
                failures.append(error)
            calls[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for _ in range(NUM_ROTATIONS):
        seen = sum(calls)
        rotate(home)
        while sum(calls) < seen + 2 and not failures:
            time.sleep(0.001)
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert min(calls) > 0


def test_without_a_server_the_next_one_reads_it(home: Home) -> None:
    assert "No model server runs now" in rotate(home)
