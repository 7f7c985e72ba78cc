"""The model server as a process of its own, on a free loopback port, stopped by its process id."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import TradewindError
from include.registry.models import delete_alias, get_alias, register_version, set_alias
from include.registry.package import folder_of
from include.registry.runs import ensure_run
from include.rollout.ledger import Ledger
from include.rollout.local import LocalTarget
from include.serving.client import ModelServerClient
from include.serving.ending import END_S

if TYPE_CHECKING:
    from include.lake.storage import Storage
    from include.rollout.decision import RolloutState

MODEL = "flight_delays"
ROOT = Path(__file__).parents[1]
TOKEN = "token-of-the-tests"
MAX_END_S = END_S + 6


@dataclass(kw_only=True)
class RunningModelServer:
    """A server that a test may kill and start again on the same folders."""

    folder: Path
    storage: Storage
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    has_token: bool = True
    arguments: tuple[str, ...] = ()

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
        command += ["--state", str(self.folder / "state")]
        command += ["--token-file", str(self.folder / "token")] if self.has_token else []
        command += self.arguments
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
        return self.process.wait(timeout=MAX_END_S)

    def _answers(self) -> bool:
        try:
            self.client.get_routes(model=MODEL)
        except TradewindError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(kw_only=True)
class RolloutWorld:
    """A model server, a model registry and a ledger, in which a test deploys versions of its own."""

    server: RunningModelServer
    mlflow_url: str
    folder: Path
    num_registered: int = 0

    @property
    def ledger(self) -> Ledger:
        return Ledger(path=self.folder / "ledger.sqlite")

    @property
    def state(self) -> RolloutState:
        return LocalTarget(client=self.server.client).read(model=MODEL)

    def register(self, *, alias: str | None = "challenger", window_end: str = "2013-03", **how: Any) -> str:
        """Train a tiny version, register it, and return its number."""
        from tests.tiny_models import tiny_package

        self.num_registered += 1
        job_key = f"{self.folder.name}-{self.num_registered}"
        run = ensure_run(self.mlflow_url, experiment=MODEL, name="r", start_ms=1, tags={"job_key": job_key})
        package = tiny_package(f"{folder_of(run.artifact_uri)}/package", **how)
        tags = {"job_key": job_key, "window_end": window_end, "digest": package.digest, "commit": "abc"}
        tags |= {"data_versions": '{"flights": 3}', "parameters": '{"epochs": 2, "seed": 7}'}
        version = register_version(
            self.mlflow_url, model=MODEL, source=f"{run.artifact_uri}/package", run_id=run.run_id, tags=tags
        ).version
        if alias:
            set_alias(self.mlflow_url, model=MODEL, alias=alias, version=version)
        return version

    def alias(self, name: str) -> str | None:
        found = get_alias(self.mlflow_url, model=MODEL, alias=name)
        return found.version if found else None

    def send(self, num_requests: int, **changes: Any) -> set[str]:
        """Ask for predictions, and return the versions that answered."""
        from tests.tiny_models import request_columns

        return {
            self.server.client.infer(
                model=MODEL, columns={**request_columns(2, first=number), **changes}, sticky_key=f"key-{number}"
            )["model_version"]
            for number in range(num_requests)
        }

    def wait_for(self, version: str, role: str, num_requests: int) -> None:
        """Wait until a version has scored so many requests; a shadow does so after the answer."""
        deadline = time.monotonic() + 10
        while self.state.of(version, role).requests < num_requests:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{role} {version} has {self.state.of(version, role)}")
            time.sleep(0.01)

    def forget(self) -> None:
        """Take every alias away, as if nothing was ever deployed."""
        for name in ("challenger", "champion"):
            delete_alias(self.mlflow_url, model=MODEL, alias=name)
