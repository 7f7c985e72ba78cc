"""A store of packages that hangs keeps nothing waiting but the versions that are in it."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import BadInputError, ServiceError
from include.lake.storage import Storage
from include.serving.ending import END_S
from include.serving.router import Router
from tests.running import MODEL, RunningModelServer
from tests.tiny_models import request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from include.registry.package import Package

OTHER_MODEL = "a_model_of_old"


@dataclass(kw_only=True)
class SlowStore:
    """An object store over a folder, which answers nothing until it is let go."""

    folder: Path
    asked: list[str] = field(default_factory=list)
    is_let_go: threading.Event = field(default_factory=threading.Event)

    def start(self) -> ThreadingHTTPServer:
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                store.asked.append(self.path)
                store.is_let_go.wait(50)
                content = (store.folder / self.path.removeprefix("/packages/")).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: Any) -> None:
                """Keep the tests' output clean."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def hang(self) -> None:
        self.asked.clear()
        self.is_let_go.clear()


@dataclass(frozen=True, kw_only=True)
class World:
    """A server with version 1 as champion and version 3 beside it, and a store that hangs."""

    server: RunningModelServer
    store: SlowStore
    folder: Path
    pool: ThreadPoolExecutor

    def package(self, name: str, **how: Any) -> Package:
        return tiny_package(self.folder / name, **how)

    def load(self, version: str, package: Package, *, uri: str = "") -> None:
        self.server.client.load(model=MODEL, version=version, uri=uri or package.uri, digest=package.digest)

    def load_slowly(self, version: str, **how: Any) -> Future[None]:
        """Begin to load a version, and return when its store was asked."""
        self.store.hang()
        name = f"slow-{version}"
        package = tiny_package(self.store.folder / name, **how)
        found = self.pool.submit(self.load, version, package, uri=f"s3://packages/{name}")
        until(lambda: self.store.asked)
        return found

    def versions(self) -> dict[str, Any]:
        return dict(self.server.client.get_routes(model=MODEL)["versions"])


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited 20 s in vain"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("slow")
    store = SlowStore(folder=folder / "store")
    endpoint = store.start()
    server = RunningModelServer(folder=folder, storage=Storage(root=str(folder / "data")), arguments=("--threads", "1"))
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as pool:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{endpoint.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "k")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server.reset()
        made = World(server=server, store=store, folder=folder, pool=pool)
        made.load("1", made.package("one"))
        made.load("3", made.package("three", bias=-0.3))
        server.client.set_routes(model=MODEL, champion="1")
        yield made
        store.is_let_go.set()
    server.stop()
    endpoint.shutdown()
    endpoint.server_close()


@pytest.mark.parametrize("is_known", [True, False])
def test_no_change_waits_for_a_version_that_is_loaded(world: World, *, is_known: bool) -> None:
    how = {"bias": -0.4 if is_known else -0.5}
    if is_known:  # nothing is tried out, so it hangs when it is loaded itself
        world.load("known", world.package("known", **how))
    slow = world.load_slowly("2", **how)
    client = world.server.client
    client.set_routes(model=MODEL, champion="3")
    assert client.infer(model=MODEL, columns=request_columns(1))["model_version"] == "3"
    world.load("4", world.package("three", bias=-0.3))
    world.load("5", world.package(f"five-{is_known}", bias=0.1 + is_known))
    client.unload(model=MODEL, version="4")
    client.unload(model=MODEL, version="5")
    client.unload(model=MODEL, version="2")  # which is not loaded yet
    client.set_routes(model=MODEL, champion="1")
    assert not slow.done()
    assert "2" not in world.versions()
    world.store.is_let_go.set()
    slow.result(20)
    assert world.versions()["2"]["error"] is None
    client.unload(model=MODEL, version="2")


def test_routes_that_changed_meanwhile_keep_their_package(world: World) -> None:
    first = world.package("first", bias=-0.6)
    world.load("6", first)
    slow = world.load_slowly("6", bias=-0.7)
    world.server.client.set_routes(model=MODEL, champion="6")
    world.store.is_let_go.set()
    with pytest.raises(BadInputError, match="must keep its package while it takes traffic; got another one"):
        slow.result(20)
    assert world.versions()["6"]["digest"] == first.digest
    world.server.client.set_routes(model=MODEL, champion="1")


def test_a_version_that_is_asked_for_again_is_read_once(world: World) -> None:
    world.load("known-8", world.package("known-8", bias=-0.8))
    slow = world.load_slowly("8", bias=-0.8)
    package = tiny_package(world.folder / "known-8", bias=-0.8)
    again = world.pool.submit(world.load, "8", package, uri="s3://packages/slow-8")
    world.load("9", world.package("nine", bias=-0.9))  # long enough for the other one to arrive
    world.store.is_let_go.set()
    slow.result(20)
    again.result(20)
    assert world.store.asked.count(world.store.asked[0]) == 1


def test_a_restore_that_hangs_keeps_no_other_model_waiting(world: World) -> None:
    client = world.server.client
    slow = world.load_slowly("2", bias=-0.4)
    world.store.is_let_go.set()
    slow.result(20)
    world.server.kill()
    router = Router(path=world.folder / "state" / "router.json")
    router.restore()
    router.set_version(OTHER_MODEL, "1", {"uri": "/nowhere", "digest": "d"})
    world.store.hang()
    world.server.start(wait_ready=False)
    until(lambda: world.store.asked)
    change = world.pool.submit(client.set_routes, model=MODEL, champion="3")
    until(lambda: reasons(world.server) == [f"model {MODEL!r} is being restored"])
    assert client.unload(model=OTHER_MODEL, version="1")["versions"] == {}
    assert not change.done()
    world.store.is_let_go.set()
    assert change.result(20)["routes"]["champion"] == "3"
    assert reasons(world.server) == []
    assert world.versions()["2"]["error"] is None


def test_a_store_that_hangs_does_not_hold_up_the_end(world: World) -> None:
    slow = world.load_slowly("7", bias=-0.75)
    started_s = time.monotonic()
    assert world.server.stop() == 0
    assert time.monotonic() - started_s < END_S
    world.store.is_let_go.set()
    with pytest.raises(ServiceError, match="Calls are idempotent and routes outlive a restart"):
        slow.result(20)
    world.server.start()
    assert "7" not in world.versions()


def reasons(server: RunningModelServer) -> list[str]:
    try:
        with urllib.request.urlopen(f"{server.url}/v2/health/ready", timeout=5) as response:
            return list(json.loads(response.read())["reasons"])
    except urllib.error.HTTPError as error:
        with error:
            return list(json.loads(error.read())["reasons"])
