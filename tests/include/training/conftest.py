from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.lake.storage import Storage
from include.training.commit import VARIABLE
from include.training.nvml import LIBRARY, Nvml
from tests.object_store import empty
from tests.snapshots import COMMIT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, COMMIT)


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Nvml:
    """Return a library with NVIDIA's symbols: one GPU with 8 GiB free, one that is full and does not tell its use."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc to build a stand-in for libnvidia-ml.so.1")
    library = tmp_path_factory.mktemp("nvml") / LIBRARY
    source = Path(__file__).with_name("stub_nvml.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    loaded = Nvml.load(str(library))
    assert loaded is not None
    return loaded


@pytest.fixture(scope="module")
def bucket() -> Iterator[Storage]:
    """Yield a storage in an object store of its own."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    options = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    storage = Storage(root="s3://lake/prod", options=options)
    client = boto3.client(
        "s3",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        endpoint_url=options["AWS_ENDPOINT_URL"],
    )
    empty(options["AWS_ENDPOINT_URL"])
    client.create_bucket(Bucket="lake")
    yield storage
    server.stop()
