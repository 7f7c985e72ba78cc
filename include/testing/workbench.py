"""A small Tradewind in a temporary folder, for tests: lake, feature store, ledger, and on wish a model registry."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pyarrow as pa
    from airflow.sdk import BaseOperator

    from include.lake.storage import Storage
    from include.testing.supervisor import FakeSupervisor
    from include.testing.tasks import TaskResult

_START_S = 150


@dataclass(kw_only=True)
class Workbench:
    """What tasks of a test share; `run` runs one of them.

    Attributes:
        storage: The lake; the feature store is inside.
        ledger: Path of the ledger.
        supervisor: What the tasks talk to; it knows the connections of all that is here.
    """

    storage: Storage
    ledger: Path
    supervisor: FakeSupervisor = field(init=False)

    def __post_init__(self) -> None:
        """Make a supervisor whose connections name the lake and the ledger."""
        from include.testing.supervisor import FakeSupervisor

        lake = {"conn_type": "fs", "extra": json.dumps({"path": self.storage.root})}
        ledger = {"conn_type": "sqlite", "host": str(self.ledger)}
        self.supervisor = FakeSupervisor(connections={"tradewind_lake": lake, "tradewind_ledger": ledger})

    def connect_registry(self, url: str) -> None:
        """Let the connection `mlflow_default` name an MLflow server."""
        at = urlsplit(url)
        self.supervisor.connections["mlflow_default"] = {"conn_type": "http", "host": at.hostname, "port": at.port}

    def run(self, operator: BaseOperator, **how: Any) -> TaskResult:
        """Run one try of a task with these connections; see `include.testing.tasks.run_task`."""
        from include.testing.tasks import run_task

        return run_task(operator, supervisor=self.supervisor, **how)

    def land(self, model: str, partition: str, files: Mapping[str, bytes]) -> None:
        """Land a partition: its files, then the marker, as the upstream system would."""
        from include.lake.landing import land_files

        marker = load_spec(model).source.marker
        land_files(storage=self.storage, model=model, partition=partition, marker=marker, files=files)

    def publish(self, model: str, partition: str, tables: Mapping[str, pa.Table]) -> None:
        """Publish rows as ingest and validate would, without running them."""
        from include.lake.tables import write_partition

        for name, rows in tables.items():
            uri = self.storage.table(model, name)
            write_partition(uri=uri, table=rows, partition=partition, storage_options=self.storage.options)

    def materialize(self, model: str, partition: str, *, published_at: datetime | None = None) -> None:
        """Build a published partition's store features and write them into the online store."""
        from include.features.build import build_features
        from include.features.materialize import materialize

        spec, at = load_spec(model), published_at or datetime.now(UTC)
        build_features(spec=spec, storage=self.storage, partition=partition, published_at=at)
        materialize(spec=spec, storage=self.storage, partition=partition)


@contextmanager
def running_mlflow(folder: Path) -> Iterator[str]:
    """Run an MLflow server on SQLite in a folder, on a free loopback port, as long as the block lasts; yield its URL.

    Raises:
        RuntimeError: It does not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--no-serve-artifacts", "--default-artifact-root", (folder / "artifacts").as_uri()]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
        try:
            _wait_until_healthy(f"{url}/health", server, folder / "log")
            yield url
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - a loopback URL of our own
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"MLflow must start within {_START_S} s; got {log.read_text()[-2000:]}")
