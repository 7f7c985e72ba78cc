"""Other model servers, each in a virtual environment of its own, with the same graph."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.load import LOOPBACK, SERVER_CORE, on_core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

REPO = Path(__file__).parents[2]
ENVIRONMENTS = REPO / ".bench"
SERVERS = Path(__file__).parent / "peer_servers"
MAX_START_S = 120.0
_VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A model server of others.

    Args:
        name: Its name.
        requirements: What pip installs for it.
        path: Where it is asked.
        body: Encoded rows -> what it is asked.
        command: (graph, port) -> how it starts, the first word from its environment's bin.
        env: Graph -> variables of its own.
        how: What a reader of the figures should know about its set-up.
        prepare: Runs once for a graph, in its environment.
        folder: Where it is started.
    """

    name: str
    requirements: tuple[str, ...]
    path: str
    body: Callable[[Mapping[str, Any]], Any]
    command: Callable[[Path, int], tuple[str, ...]]
    env: Callable[[Path], dict[str, str]] = field(default=lambda _graph: {})
    how: str
    prepare: Callable[[Path], tuple[str, ...]] | None = None
    folder: Path = SERVERS

    @property
    def environment(self) -> Path:
        """Its virtual environment."""
        return ENVIRONMENTS / self.name

    def install(self) -> dict[str, str]:
        """Make its environment unless it is there, and return the versions in it."""
        python = self.environment / "bin" / "python"
        stamp = self.environment / "installed.json"
        if not stamp.exists() or json.loads(stamp.read_text()) != list(self.requirements):
            subprocess.run([sys.executable, "-m", "venv", "--clear", self.environment], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *self.requirements], check=True)
            stamp.write_text(json.dumps(self.requirements))
        names = [requirement.partition("==")[0] for requirement in self.requirements]
        told = subprocess.run([python, "-c", _VERSIONS, *names], check=True, capture_output=True, text=True).stdout
        versions: dict[str, str] = json.loads(told)
        return versions

    def asked(self, tensors: Mapping[str, Any]) -> bytes:
        """Return the body of a request."""
        return json.dumps(self.body(tensors)).encode()


def _mlflow_folder(graph: Path) -> Path:
    return graph.with_suffix(".mlflow")


PEERS = (
    Peer(
        name="mlflow",
        requirements=("mlflow==3.17.2", "onnx==1.23.2", "onnxruntime==1.31.1", "numpy==2.4.6"),
        path="/invocations",
        body=lambda tensors: {"inputs": tensors},
        prepare=lambda graph: ("python", str(SERVERS / "mlflow_save.py"), str(graph), str(_mlflow_folder(graph))),
        command=lambda graph, port: (
            *("mlflow", "models", "serve", "--model-uri", str(_mlflow_folder(graph)), "--env-manager", "local"),
            *("--host", LOOPBACK, "--port", str(port), "--workers", "1"),
        ),
        env=lambda graph: {"MLFLOW_TRACKING_URI": f"sqlite:///{graph.with_suffix('.db')}"},
        how="onnx flavour with a tensor signature, one worker; it has no batching",
    ),
    Peer(
        name="litserve",
        requirements=("litserve==0.2.19", "onnxruntime==1.31.1", "numpy==2.4.6"),
        path="/predict",
        body=dict,
        command=lambda graph, port: ("python", str(SERVERS / "litserve_server.py"), str(graph), str(port)),
        how="one API server, one worker, fast_queue, up to 32 requests a batch within 1 ms",
    ),
    Peer(
        name="bentoml",
        requirements=("bentoml==1.4.39", "onnxruntime==1.31.1", "numpy==2.4.6"),
        path="/predict",
        body=lambda tensors: {
            "rows": [[*c, *n] for c, n in zip(tensors["categorical"], tensors["numeric"], strict=True)]
        },
        command=lambda _graph, port: (
            *("bentoml", "serve", "bentoml_server:OnnxService", "--host", LOOPBACK, "--port", str(port)),
        ),
        env=lambda graph: {
            "GRAPH": str(graph),
            "BENTOML_HOME": str(graph.with_suffix(".bentoml")),
            "BENTOML_DO_NOT_TRACK": "True",
        },
        how="one worker, adaptive batching with its default limits",
    ),
)


@contextmanager
def running_peer(peer: Peer, *, graph: Path, port: int, probe: bytes, log: Path) -> Iterator[None]:
    """Run a peer on the servers' core until it is left; it has answered the probe when this returns.

    Raises:
        RuntimeError: It ended, or does not answer.
    """
    name, *arguments = peer.command(graph, port)
    env = {
        **os.environ,
        "PATH": f"{peer.environment / 'bin'}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        **peer.env(graph),
    }
    command = on_core(SERVER_CORE, peer.environment / "bin" / name, *arguments)
    with (
        log.open("ab") as told,
        subprocess.Popen(
            command, cwd=peer.folder, env=env, stdout=told, stderr=told, start_new_session=True
        ) as process,
    ):
        try:
            _wait(process, f"http://{LOOPBACK}:{port}{peer.path}", probe, log)
            yield
        finally:
            _end(process)


def prepare_peer(peer: Peer, *, graph: Path) -> None:
    """Have a peer make of a graph what it serves."""
    if peer.prepare is not None:
        name, *arguments = peer.prepare(graph)
        env = {**os.environ, **peer.env(graph)}
        command = [str(peer.environment / "bin" / name), *arguments]
        subprocess.run(command, check=True, env=env, cwd=graph.parent, capture_output=True)


def post(url: str, body: bytes) -> bytes:
    """Return the answer to a JSON body."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


def _wait(process: subprocess.Popen[bytes], url: str, probe: bytes, log: Path) -> None:
    deadline = time.monotonic() + MAX_START_S
    while True:
        try:
            post(url, probe)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{url} does not answer: {log.read_text()[-3000:]}") from None
            time.sleep(0.1)
        else:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started, which share its session."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # workers that outlive their parent would take the next one's core
    process.wait(10)
