"""Our model server on one core, with three versions of one graph."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from include.serving.client import ModelServerClient
from tests.bench.load import LOOPBACK, SERVER_CORE, on_core
from tests.bench.served_graph import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.registry.package import Package

REPO = Path(__file__).parents[2]
PATH = f"/v2/models/{MODEL}/infer"
VERSIONS = ("1", "2", "3")
MAX_START_S = 60.0
_TOKEN = "token-of-the-bench"


@dataclass(frozen=True, kw_only=True)
class OurServer:
    """A running server.

    Args:
        port: Where it answers.
        pid: Its process.
    """

    port: int
    pid: int

    @property
    def client(self) -> ModelServerClient:
        """Calls it as an administrator."""
        return ModelServerClient(base_url=f"http://{LOOPBACK}:{self.port}", admin_token=_TOKEN)

    def route(self, *, is_plain: bool) -> None:
        """Let the champion answer alone, or beside a canary with a tenth of the keys and a shadow."""
        if is_plain:
            self.client.set_routes(model=MODEL, champion="1")
        else:
            self.client.set_routes(model=MODEL, champion="1", canary="2", canary_share_pct=10.0, shadow="3")

    def rss_bytes(self) -> int:
        """Return the memory of it and all that it started."""
        process = psutil.Process(self.pid)
        return sum(found.memory_info().rss for found in (process, *process.children(recursive=True)))


@contextmanager
def our_server(folder: Path, *, package: Package, port: int, core: str | None = SERVER_CORE) -> Iterator[OurServer]:
    """Run the server with its default settings until it is left; its folders are new."""
    folder.mkdir(parents=True)
    token = folder / "token"
    token.write_text(_TOKEN)
    command = [sys.executable, "-m", "include.serving", "--port", str(port), "--storage", str(folder / "data")]
    command += ["--state", str(folder / "state"), "--token-file", str(token)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pinned = command if core is None else on_core(core, *command)
    with (
        (folder / "server.log").open("ab") as log,
        subprocess.Popen(pinned, cwd=REPO, env=env, stdout=log, stderr=log) as process,
    ):
        server = OurServer(port=port, pid=process.pid)
        try:
            deadline = time.monotonic() + MAX_START_S
            while not server.client.is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"model server did not start: {(folder / 'server.log').read_text()[-3000:]}")
                time.sleep(0.05)
            for version in VERSIONS:
                server.client.load(model=MODEL, version=version, uri=package.uri, digest=package.digest)
            server.route(is_plain=True)
            yield server
        finally:
            process.terminate()
            process.wait(30)
