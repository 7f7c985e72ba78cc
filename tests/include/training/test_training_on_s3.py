"""The same training on an object store, opened by the environment alone, as in a pod."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

from include.lake.files import read_bytes
from include.lake.storage import Storage
from include.registry.assemble import assemble_package
from include.registry.package import read_package
from include.training import command
from include.training.evaluate import evaluate
from include.training.exit_codes import ExitCode
from include.training.result import read_result
from tests.object_store import empty
from tests.snapshots import small_job, small_table

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "secret-of-the-lake"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    empty(environment["AWS_ENDPOINT_URL"])
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="lake")
    yield Storage(root="s3://lake/prod", options=environment)
    server.stop()


def test_a_job_on_s3_gives_the_bytes_of_a_job_on_a_disk(lake: Storage, storage: Storage) -> None:
    table = small_table(1200)
    remote, local = small_job(lake, table=table), small_job(storage, table=table)
    assert remote.uri.startswith("s3://lake/prod/jobs/")
    assert command.main(["--job", remote.uri]) == ExitCode.DONE
    assert command.main(["--job", local.uri]) == ExitCode.DONE
    found, wanted = read_result(remote, storage=lake), read_result(local, storage=storage)
    assert found is not None
    assert wanted is not None
    assert found.files == wanted.files
    assert SECRET.encode() not in read_bytes(remote.uri, storage=lake)
    evaluate(remote, storage=lake, champion=None)
    package = assemble_package(remote, storage=lake).package
    assert read_package(package.uri, storage=lake).digest == package.digest


def test_a_job_that_is_not_there_is_said_without_the_secret(lake: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--job", "s3://lake/prod/nowhere/job.json"]) == ExitCode.BAD_JOB
    said = capsys.readouterr().out
    assert "s3://lake/prod/nowhere/job.json" in said
    assert SECRET not in said


def test_a_policy_is_not_called_the_job_or_its_data(lake: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    job = small_job(lake, table=small_table(600))
    rows = f"arn:aws:s3:::{job.snapshot.uri.removeprefix('s3://')}/*"
    denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": rows}
    client = boto3.client("s3", region_name="us-east-1")
    client.put_bucket_policy(Bucket="lake", Policy=json.dumps({"Version": "2012-10-17", "Statement": [denied]}))
    try:
        assert command.main(["--job", job.uri]) == ExitCode.BAD_SETUP
    finally:
        client.delete_bucket_policy(Bucket="lake")
    assert "error: object store must allow get_object of 's3://lake/prod/snapshots/" in capsys.readouterr().out
