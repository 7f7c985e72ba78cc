"""The prediction log on an object store: moto's server speaks S3 on a loopback port."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config

from include.drift.served import prediction_schema, read_predictions
from include.lake.storage import Storage
from tests.object_store import object_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.spec import ModelSpec

BUCKET = "lake"


@pytest.fixture
def s3(free_port: int) -> Iterator[Storage]:
    """Return an empty storage in a bucket."""
    options = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port}",
    }
    storage = Storage(root=f"s3://{BUCKET}/some/prefix", options=options)
    with object_store(storage):
        yield storage


def client(options: dict[str, str]) -> object:
    return boto3.client(
        "s3",
        aws_access_key_id=options["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=options["AWS_SECRET_ACCESS_KEY"],
        region_name=options["AWS_REGION"],
        endpoint_url=options["AWS_ENDPOINT_URL"],
        config=Config(retries={"max_attempts": 1}),
    )


def test_predictions_are_read_from_a_bucket(spec: ModelSpec, s3: Storage) -> None:
    assert read_predictions(spec=spec, storage=s3, example_ids=["a"]).num_rows == 0
    written = {name: pa.nulls(3, kind) for name, kind in zip(*_columns(spec), strict=True)}
    written |= {"example_id": pa.array(["a", "b", "c"]), "probability": pa.array([0.1, 0.2, 0.3], pa.float32())}
    body = io.BytesIO()
    pq.write_table(pa.table(written), body)
    client(dict(s3.options)).put_object(
        Bucket=BUCKET, Key=f"some/prefix/predictions/{spec.name}/one.parquet", Body=body.getvalue()
    )
    found = read_predictions(spec=spec, storage=s3, example_ids=["a", "c"])
    assert found["example_id"].to_pylist() == ["a", "c"]


def _columns(spec: ModelSpec) -> tuple[list[str], list[pa.DataType]]:
    schema = prediction_schema(spec)
    return schema.names, schema.types
