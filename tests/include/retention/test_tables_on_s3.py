"""Files of tables in an object store: moto's server speaks S3 on a loopback port."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from include.errors import ServiceError
from include.lake.files import delete_file, write_bytes
from include.lake.history import partition_times
from include.lake.listing import list_files
from include.lake.storage import Storage
from include.lake.tables import read_table, write_partition
from include.retention.tables import stale_files
from include.spec import load_spec
from tests.object_store import object_store

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = load_spec("flight_delays")


@pytest.fixture
def lake(free_port: int) -> Iterator[Storage]:
    """Return an empty lake in a bucket, served by a process of its own: delta-rs holds the GIL while it asks."""
    options = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port}",
        "AWS_ALLOW_HTTP": "true",
    }
    storage = Storage(root="s3://lake/prod", options=options)
    with object_store(storage):
        yield storage


def test_a_pinned_version_in_a_bucket_stays_readable(lake: Storage) -> None:
    uri = lake.table(SPEC.name, "flights")
    for value in range(4):
        table = pa.table({"value": [value]})
        write_partition(uri=uri, table=table, partition="2013-01", storage_options=lake.options)
    write_bytes(f"{uri}/partition=2013-01/left-behind.parquet", b"x", storage=lake)

    def stale(before: datetime) -> list[str]:
        found = stale_files(spec=SPEC, storage=lake, pins={"flights": frozenset({1})}, before=before)
        return [file for table in found for file in table.uris]

    later = datetime.now(UTC) + timedelta(days=1)
    assert stale(datetime.now(UTC) - timedelta(days=1)) == []
    going = stale(later)
    assert len(going) == 3  # of the versions 0 and 2, and what a killed writer left
    for file in going:
        delete_file(file, storage=lake)

    assert stale(later) == []
    for version, value in ((1, 1), (3, 3)):
        held = read_table(uri=uri, storage_options=lake.options, version=version)
        assert held["value"].to_pylist() == [value]
    with pytest.raises(OSError, match=r"not found|NoSuchKey|No such|404"):
        read_table(uri=uri, storage_options=lake.options, version=2)
    assert list(partition_times(uri=uri, storage_options=lake.options)) == ["2013-01"]


def test_files_of_a_bucket_are_listed_by_their_uris(lake: Storage) -> None:
    folder = lake.landing(SPEC.name, "2013-01")
    before = datetime.now(UTC) - timedelta(seconds=5)
    for name in ("flights.csv", "_SUCCESS"):
        write_bytes(f"{folder}/{name}", b"abc", storage=lake)

    found = list_files(folder, storage=lake)

    assert [file.uri for file in found] == [f"{folder}/_SUCCESS", f"{folder}/flights.csv"]
    assert all(file.size_bytes == 3 and file.modified_at > before for file in found)
    assert list_files(lake.landing(SPEC.name, "2013-02"), storage=lake) == []


def test_a_bucket_that_is_away_is_a_service_error(lake: Storage) -> None:
    away = Storage(root=lake.root, options={**lake.options, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})

    with pytest.raises(ServiceError, match="storage must list"):
        list_files(away.landing(SPEC.name), storage=away)
