"""The model server as a process of its own, on a free loopback port, stopped by its process id."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import TradewindError
from include.serving.client import ModelServerClient

if TYPE_CHECKING:
    from include.lake.storage import Storage

ROOT = Path(__file__).parents[1]
TOKEN = "token-of-the-tests"


@dataclass(kw_only=True)
class RunningModelServer:
    """A server that a test may kill and start again on the same folders."""

    folder: Path
    storage: Storage
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    arguments: tuple[str, ...] = field(default=())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> ModelServerClient:
        return ModelServerClient(base_url=self.url, admin_token=TOKEN)

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def reset(self) -> None:
        """Forget every route, version, logged prediction and materialized feature but a few; start if not running."""
        from tests.tiny_models import fill_online_store  # loads onnx, which most tests do without

        shutil.rmtree(self.storage.feast(), ignore_errors=True)
        fill_online_store(self.storage, {"carrier_lateness": {"UA": (0.2, 90.0)}, "tail_lateness": {"N1": (0.5, 9.0)}})
        if self.process is None or self.process.poll() is not None:
            shutil.rmtree(self.folder / "state", ignore_errors=True)
            self.start()
        for model, state in self.client.get_all_routes()["models"].items():
            self.client.set_routes(model=model, champion=None)
            for version in state["versions"]:
                self.client.unload(model=model, version=version)
        self.client.flush()
        shutil.rmtree(Path(self.storage.root) / "predictions", ignore_errors=True)

    def start(self, *, wait_ready: bool = True) -> None:
        """Start it and wait until it can score what it routes, or until it answers at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "token").write_text(TOKEN)
        self.port = self.port or _free_port()
        command = [sys.executable, "-m", "include.serving", "--port", str(self.port), "--storage", self.storage.root]
        command += ["--state", str(self.folder / "state"), "--token-file", str(self.folder / "token"), *self.arguments]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not (self.client.is_ready() if wait_ready else self._answers()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"model server did not start: {self.log[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)

    def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        if self.process is None or self.process.poll() is not None:
            return 0
        self.process.terminate()
        return self.process.wait(timeout=20)

    def _answers(self) -> bool:
        try:
            self.client.get_routes(model="flight_delays")
        except TradewindError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
