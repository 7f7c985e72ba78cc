"""An object store that speaks S3, in a process of its own: delta-rs holds the interpreter's lock while it asks."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.lake.storage import Storage

MAX_START_S = 60.0


def empty(endpoint: str) -> None:
    """Forget all that moto's server knows: servers in one process share it, buckets and policies included."""
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST"), timeout=20):
        pass


@contextmanager
def object_store(storage: Storage) -> Iterator[Any]:
    """Run moto's server at a storage's endpoint with its bucket, empty; yield a client of the bucket's owner."""
    endpoint, bucket = storage.options["AWS_ENDPOINT_URL"], storage.root.split("/")[2]
    port = endpoint.rpartition(":")[2]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = boto3.client(
        "s3",
        region_name=storage.options["AWS_REGION"],
        endpoint_url=endpoint,
        aws_access_key_id="owner",
        aws_secret_access_key="secret",
        config=Config(retries={"max_attempts": 1}),
    )
    deadline = time.monotonic() + MAX_START_S
    try:
        while True:
            try:
                client.create_bucket(Bucket=bucket)
            except BotoCoreError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                break
        yield client
    finally:
        server.terminate()
        server.wait(timeout=30)
