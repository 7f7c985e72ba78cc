from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.errors import CorruptArtifactError, PartitionError
from include.features.build import build_features
from include.lake.storage import Storage
from include.spec import load_spec
from include.training.snapshot import (
    build_snapshot,
    read_snapshot,
    require_trainable,
    source_partitions,
    training_window,
)
from tests.flights import publish_month

SPEC = load_spec("flight_delays")
WINDOW = ("2013-01", "2013-02")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(root=str(tmp_path_factory.mktemp("lake")))
    for partition in WINDOW:
        publish_month(spec=SPEC, storage=storage, partition=partition, num_flights=400)
        build_features(spec=SPEC, storage=storage, partition=partition, published_at=datetime.now(UTC))
    return storage


def test_a_snapshot_is_written_once(lake: Storage) -> None:
    first = build_snapshot(spec=SPEC, storage=lake, window=WINDOW)
    path = Path(first.ref.uri, "data.parquet")
    before = path.stat().st_mtime_ns
    assert build_snapshot(spec=SPEC, storage=lake, window=WINDOW) == first
    assert path.stat().st_mtime_ns == before
    assert first.versions["flights"] == 1
    assert first.ref.partitions == WINDOW
    table = pq.read_table(path)
    assert (
        table.num_rows == first.ref.num_rows == json.loads(Path(first.ref.uri, "manifest.json").read_text())["num_rows"]
    )
    assert table["label"].null_count == 0


def test_january_has_no_store_features_and_february_has(lake: Storage) -> None:
    table = pq.read_table(Path(build_snapshot(spec=SPEC, storage=lake, window=WINDOW).ref.uri, "data.parquet"))
    field = table.select(["partition", "origin_late_frac_28d"]).to_pylist()
    missing = {key: {row["origin_late_frac_28d"] is None for row in field if row["partition"] == key} for key in WINDOW}
    assert missing == {"2013-01": {True}, "2013-02": {False}}


def test_a_half_written_snapshot_is_finished_and_a_damaged_one_mended(lake: Storage) -> None:
    whole = build_snapshot(spec=SPEC, storage=lake, window=WINDOW)
    Path(whole.ref.uri, "manifest.json").unlink()
    assert build_snapshot(spec=SPEC, storage=lake, window=WINDOW) == whole
    Path(whole.ref.uri, "data.parquet").write_bytes(b"damaged")
    with pytest.raises(CorruptArtifactError, match=r"data\.parquet must have the SHA-256"):
        read_snapshot(whole.ref.uri, storage=lake)
    assert build_snapshot(spec=SPEC, storage=lake, window=WINDOW) == whole
    Path(whole.ref.uri, "manifest.json").write_text("{}")
    with pytest.raises(CorruptArtifactError, match=r"readable manifest\.json"):
        read_snapshot(whole.ref.uri, storage=lake)
    assert build_snapshot(spec=SPEC, storage=lake, window=WINDOW) == whole


def test_other_rows_make_another_snapshot(lake: Storage, tmp_path: Path) -> None:
    import shutil

    other = Storage(root=str(tmp_path / "other"))
    shutil.copytree(lake.root, other.root)
    same = build_snapshot(spec=SPEC, storage=other, window=WINDOW)
    assert same.ref.sha256 == build_snapshot(spec=SPEC, storage=lake, window=WINDOW).ref.sha256
    publish_month(spec=SPEC, storage=other, partition="2013-02", num_flights=300)
    changed = build_snapshot(spec=SPEC, storage=other, window=WINDOW)
    assert changed.ref.uri != same.ref.uri
    assert read_snapshot(same.ref.uri, storage=other) == same


def test_a_window_with_a_gap_is_refused(lake: Storage) -> None:
    with pytest.raises(PartitionError, match=r"must have labelled rows; got none in 2013-03\. Nothing was written\."):
        build_snapshot(spec=SPEC, storage=lake, window=(*WINDOW, "2013-03"))


def test_the_window_ends_with_the_partition_and_starts_no_earlier_than_the_source() -> None:
    assert training_window(spec=SPEC, partition="2013-06") == ("2013-04", "2013-05", "2013-06")
    assert training_window(spec=SPEC, partition="2013-02") == ("2013-01", "2013-02")
    assert training_window(spec=SPEC, partition="2013-06", num_partitions=1) == ("2013-06",)


def test_published_is_what_every_table_holds(lake: Storage, storage: Storage) -> None:
    assert source_partitions(spec=SPEC, storage=lake) == WINDOW
    assert source_partitions(spec=SPEC, storage=storage) == ()


def trainable(partition: str, *, champion: str | None = None, force: bool = False) -> None:
    published = ("2013-01", "2013-02", "2013-03")
    require_trainable(spec=SPEC, partition=partition, published=published, champion_window_end=champion, force=force)


def test_only_the_newest_partition_trains() -> None:
    trainable("2013-03")
    trainable("2013-03", champion="2013-03")
    with pytest.raises(PartitionError, match="only the newest partition of 'flight_delays', 2013-03, may train"):
        trainable("2013-02")
    with pytest.raises(PartitionError, match="whose window ends 2013-04; got '2013-03'"):
        trainable("2013-03", champion="2013-04")


def test_a_person_may_insist_but_not_on_what_is_not_there() -> None:
    trainable("2013-02", champion="2013-04", force=True)
    with pytest.raises(PartitionError, match="must be published before a training"):
        trainable("2013-04", force=True)


def test_a_missing_number_stays_missing_on_its_way_to_the_tensors() -> None:
    import numpy as np

    from include.features.encoding import Encoding
    from include.training.rows import columns_of

    column = pa.chunked_array([pa.array([9.0, None, 1.0]).slice(1), pa.array([2.0])])
    encoding = Encoding(vocabulary={"c": ("a",)}, numeric=("n", "i"))
    table = pa.table({"c": ["a", None, "b"], "n": column, "i": pa.array([1, None, 3])})
    found = columns_of(table, encoding)
    np.testing.assert_array_equal(found["n"], [np.nan, 1.0, 2.0])
    np.testing.assert_array_equal(found["i"], [1.0, np.nan, 3.0])
    assert encoding.encode(found)[0][:, 0].tolist() == [1, 0, 0]
