"""The same operators, sensor and tables on an object store: moto's server speaks S3 on a loopback port."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import boto3
import pyarrow as pa
import pytest
from airflow.triggers.base import TaskSuccessEvent
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError

from include.demo.flights import land_month
from include.errors import NotFoundError, ServiceError, SetupError
from include.lake.files import delete_file, file_exists, read_bytes, write_bytes
from include.lake.tables import content_hash, current_version, read_table, write_partition
from operators.hooks.lake import LakeHook
from operators.ingest_partition import IngestPartitionOperator
from operators.validate_partition import ValidatePartitionOperator
from sensors.triggers.partition_landed import PartitionLandedTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.lake.storage import Storage

MODEL = "flight_delays"
SECRET = "moto-secret"


def connect(monkeypatch: pytest.MonkeyPatch, port: int, bucket: str = "tradewind") -> None:
    lake = {
        "conn_type": "aws",
        "login": "moto-key",
        "password": SECRET,
        "extra": {
            "lake_root": f"s3://{bucket}/prod",
            "region_name": "us-east-1",
            "endpoint_url": f"http://127.0.0.1:{port}",
        },
    }
    monkeypatch.setenv("AIRFLOW_CONN_TRADEWIND_LAKE", json.dumps(lake))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def serve(port: int) -> subprocess.Popen[bytes]:
    """Start moto's server with a bucket, in a process of its own: delta-rs holds the interpreter while it waits."""
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="moto-key",
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}),
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket="tradewind")
        except EndpointConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return server


def stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        free = int(listener.getsockname()[1])
    server = serve(free)
    yield free
    stop(server)


@pytest.fixture
def lake(port: int, monkeypatch: pytest.MonkeyPatch) -> Storage:
    connect(monkeypatch, port)
    return LakeHook().get_conn()


def test_a_month_is_ingested_and_published_on_s3(lake: Storage) -> None:
    land_month(storage=lake, partition="2013-02", max_flights=400)
    ingested = IngestPartitionOperator(task_id="ingest", model=MODEL, partition="2013-02").execute({})
    published = ValidatePartitionOperator(task_id="validate", model=MODEL, partition="2013-02").execute({})
    assert ingested["tables"]["flights"]["num_rows"] == 400
    assert published["num_quarantined"] == 1
    rows = read_table(uri=lake.table(MODEL, "flights"), storage_options=lake.options, partitions=["2013-02"])
    assert content_hash(rows) == published["tables"]["flights"]["checksum"]
    assert b"flights" in read_bytes(published["data_docs"], storage=lake)
    assert SECRET not in json.dumps([ingested, published])
    assert SECRET not in repr(lake)


def test_writers_at_the_same_time_all_succeed_on_s3(lake: Storage) -> None:
    uri = lake.table(MODEL, "shared")

    def write(value: int) -> None:
        write_partition(uri=uri, table=pa.table({"a": [value]}), partition="2013-01", storage_options=lake.options)

    with ThreadPoolExecutor(3) as writers:
        list(writers.map(write, range(6)))
    assert current_version(uri=uri, storage_options=lake.options) == 5
    assert read_table(uri=uri, storage_options=lake.options).num_rows == 1


def test_files_on_s3(lake: Storage) -> None:
    uri = f"{lake.root}/some/file"
    assert not file_exists(uri, storage=lake)
    write_bytes(uri, b"content", storage=lake)
    assert file_exists(uri, storage=lake)
    assert read_bytes(uri, storage=lake) == b"content"
    delete_file(uri, storage=lake)
    with pytest.raises(NotFoundError, match="must exist; got nothing there"):
        read_bytes(uri, storage=lake)


def test_a_bucket_that_is_not_there_is_a_clear_error(lake: Storage) -> None:
    with pytest.raises(SetupError, match="must allow put_object of 's3://other/file'"):
        write_bytes("s3://other/file", b"", storage=lake)
    with pytest.raises(SetupError, match="must be a folder or s3://bucket/prefix; got 'gs://other/file'"):
        write_bytes("gs://other/file", b"", storage=lake)


def test_the_sensor_waits_through_an_outage_of_s3(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, free_port)
    lake = LakeHook().get_conn()
    with pytest.raises(ServiceError, match="must answer head_object"):
        file_exists(f"{lake.root}/any", storage=lake)
    trigger = PartitionLandedTrigger(
        model=MODEL, partition="2013-01", lake_conn_id="tradewind_lake", poke_interval_s=0.1
    )

    async def land_after_the_outage() -> object:
        waiting = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        server = await asyncio.to_thread(serve, free_port)
        try:
            await asyncio.to_thread(land_month, storage=lake, partition="2013-01", max_flights=5)
            return await asyncio.wait_for(waiting, timeout=60)
        finally:
            await asyncio.to_thread(stop, server)

    assert isinstance(asyncio.run(land_after_the_outage()), TaskSuccessEvent)
