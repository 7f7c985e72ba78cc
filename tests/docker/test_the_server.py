"""What the model server's image would hold starts, serves a package from its URI, and ends when it is asked to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow.parquet as pq
import pytest

from include.serving.client import ModelServerClient
from tests.docker.images import SERVER, Assembled, assemble
from tests.running import MODEL
from tests.tiny_models import fill_online_store, request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.lake.storage import Storage

COMMIT = "1234567890123456789012345678901234567890"
BARE = str(Path(__file__).with_name("bare.py"))
MAX_START_S = 60.0
USES_WHAT_IS_LEFT = """
import boto3
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
keys = {"region_name": "us-east-1", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
assert [boto3.client(name, **keys).meta.service_model.service_name for name in ("s3", "sts")] == ["s3", "sts"]
"""


@contextmanager
def serving(image: Assembled, storage: Storage, port: int, *start: str) -> Iterator[tuple[ModelServerClient, Any]]:
    """Run the image's command on a port of loopback, with a champion that it pulls by URI; it must end with 0."""
    fill_online_store(storage, {"carrier_lateness": {"UA": (0.2, 90.0)}})
    package = tiny_package(Path(storage.root) / "package")
    champion = {"model": MODEL, "version": "7", "uri": package.uri, "digest": package.digest}
    _, *arguments = json.loads(image.image.last("CMD"))
    changed = {"0.0.0.0": "127.0.0.1", "8080": str(port), "-m": ""}
    arguments = [changed.get(word, word).replace("/var/lib/tradewind/lake", storage.root) for word in arguments]
    state = str(Path(storage.root) / "state")
    arguments = [word.replace("/var/lib/tradewind/state", state) for word in arguments if word]
    command = [*start, *arguments, "--champion", json.dumps(champion)]
    log = Path(storage.root) / "server.log"
    with (
        log.open("wb") as told,
        subprocess.Popen(command, cwd=image.code, env=image.env(), stdout=told, stderr=told) as process,
    ):
        try:
            client = ModelServerClient(base_url=f"http://127.0.0.1:{port}")
            deadline = time.monotonic() + MAX_START_S
            while not client.is_ready():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield client, psutil.Process(process.pid)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()
        finally:
            process.kill()


def require_serving(client: ModelServerClient) -> None:
    answer = client.infer(model=MODEL, columns=request_columns(3))
    assert answer["model_version"] == "7"
    assert len(answer["outputs"][0]["data"]) == 3


def require_logged(storage: Storage) -> None:
    """Wait for the server to write what it answered, as it does every few seconds."""
    folder, deadline = Path(storage.predictions(MODEL)), time.monotonic() + MAX_START_S
    while not list(folder.rglob("*.parquet")):
        assert time.monotonic() < deadline, "no prediction was logged"
        time.sleep(0.05)
    logged = pq.read_table(folder)
    assert logged["model_version"].to_pylist() == ["7"] * 3


def test_the_server_starts_from_what_its_image_holds(tmp_path: Path, storage: Storage, free_port: int) -> None:
    image = assemble(SERVER, tmp_path / "tradewind")
    image.build(1, COMMIT=COMMIT)
    with serving(image, storage, free_port, sys.executable, BARE, "requirements-serve.txt") as (client, _):
        require_serving(client)
        require_logged(storage)


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_the_server_starts_in_an_environment_of_its_own(tmp_path: Path, storage: Storage, free_port: int) -> None:
    image = assemble(SERVER, tmp_path / "tradewind", packages=tmp_path / "venv")
    image.build(0)
    image.build(1, COMMIT=COMMIT)
    python = str(image.packages / "bin" / "python")
    for absent in ("airflow", "torch", "mlflow", "feast", "pip"):
        found = subprocess.run([python, "-c", f"import {absent}"], check=False, capture_output=True, text=True)
        assert f"No module named '{absent}'" in found.stderr
    subprocess.run([python, "-c", USES_WHAT_IS_LEFT], check=True)
    started_s = time.monotonic()
    with serving(image, storage, free_port, python, "-m") as (client, process):
        start_s = time.monotonic() - started_s
        rss = sum(found.memory_info().rss for found in (process, *process.children(recursive=True)))
        require_serving(client)
        require_logged(storage)
    packages = image.packages / "lib" / "python3.11" / "site-packages"
    measured = {
        "num_packages": len(list(packages.glob("*.dist-info"))),
        "size_mib": sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) >> 20,
        "rss_mib_with_a_model": rss >> 20,
        "start_to_ready_s": round(start_s, 2),
    }
    print(json.dumps(measured))  # noqa: T201 - `make chaos` shows it
