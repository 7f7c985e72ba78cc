from __future__ import annotations

import sqlite3
import statistics
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from include.errors import BadInputError, CorruptArtifactError, NotFoundError, ServiceError, SetupError
from include.features.examples import feature_schema, feature_table
from include.features.materialize import materialize
from include.features.store import OnlineStore, content_hash, online_features, online_path, open_store
from include.lake.storage import Storage
from include.lake.tables import write_partition

if TYPE_CHECKING:
    from include.spec import ModelSpec

ENTITIES = {"carrier": "UA", "origin": "EWR", "route": "EWR-IAH", "tailnum": "N14228"}
JANUARY_AT = datetime(2013, 2, 1, 5, tzinfo=UTC)
FEBRUARY_AT = datetime(2013, 3, 1, 5, tzinfo=UTC)


def write(
    spec: ModelSpec,
    storage: Storage,
    *,
    partition: str,
    at: datetime,
    value: float,
    entities: dict[str, Any] = ENTITIES,
) -> None:
    """Write one entity for each view; all its fields hold `value`."""
    for view, view_spec in spec.features.store.items():
        row = {view_spec.entity: entities[view_spec.entity], "available_at": at, "published_at": at}
        row |= dict.fromkeys(view_spec.fields, value) | {"partition": partition}
        table = pa.Table.from_pylist([row], schema=feature_schema(view_spec))
        uri = storage.table(spec.name, feature_table(view))
        write_partition(uri=uri, table=table, partition=partition, storage_options=storage.options)


def rows_of(**changed: Any) -> dict[str, list[Any]]:
    return {name: [value] for name, value in (ENTITIES | changed).items()}


@pytest.fixture
def store(spec: ModelSpec, storage: Storage) -> OnlineStore:
    write(spec, storage, partition="2013-01", at=JANUARY_AT, value=0.25)
    materialize(spec=spec, storage=storage, partition="2013-01")
    return open_store(spec=spec, storage=storage)


def test_known_unknown_and_missing_entities(spec: ModelSpec, store: OnlineStore) -> None:
    rows: dict[str, list[str | None]] = {
        "carrier": ["UA", "ZZ", None],
        "origin": ["EWR", "", None],
        "route": ["EWR-IAH", "ÿ✈", None],
        "tailnum": ["N14228", "\ud800", None],
        "dest": ["IAH", "IAH", "IAH"],
    }
    found = online_features(store, spec, rows)
    assert found == {name: [0.25, None, None] for name in spec.features.store_fields}


def test_no_rows_are_no_values(spec: ModelSpec, store: OnlineStore) -> None:
    assert online_features(store, spec, {name: [] for name in ENTITIES})["carrier_late_frac_28d"] == []


def test_an_entity_column_must_be_there(spec: ModelSpec, store: OnlineStore) -> None:
    rows = rows_of()
    del rows["tailnum"]
    with pytest.raises(BadInputError, match="need the entities carrier, origin, route, tailnum; got none of tailnum"):
        online_features(store, spec, rows)


@pytest.mark.parametrize(("age", "value"), [(timedelta(days=62), 0.25), (timedelta(days=62, microseconds=1), None)])
def test_a_value_older_than_its_ttl_is_missing(
    spec: ModelSpec, store: OnlineStore, age: timedelta, value: float | None
) -> None:
    found = online_features(store, spec, rows_of(), as_of=JANUARY_AT + age)
    assert set(map(tuple, found.values())) == {(value,)}


def test_without_as_of_a_replay_stands_at_its_newest_materialization(
    spec: ModelSpec, storage: Storage, store: OnlineStore
) -> None:
    """UA of January: fresh as long as nothing newer than 62 days later was materialized."""
    assert online_features(store, spec, rows_of())["carrier_late_frac_28d"] == [0.25]
    others = {"carrier": "AA", "origin": "JFK", "route": "JFK-LAX", "tailnum": "N1"}
    for partition, at, expected in (
        ("2013-02", JANUARY_AT + timedelta(days=62), 0.25),
        ("2013-03", JANUARY_AT + timedelta(days=62, seconds=1), None),
    ):
        write(spec, storage, partition=partition, at=at, value=0.5, entities=others)
        materialize(spec=spec, storage=storage, partition=partition)
        assert online_features(store, spec, rows_of())["carrier_late_frac_28d"] == [expected]


def test_without_as_of_a_wall_clock_is_now(spec: ModelSpec, store: OnlineStore) -> None:
    wall = spec.model_copy(update={"source": spec.source.model_copy(update={"clock": "wall"})})
    assert online_features(store, wall, rows_of())["carrier_late_frac_28d"] == [None]


def test_a_new_materialization_and_a_new_file_are_seen_without_restart(
    spec: ModelSpec, storage: Storage, store: OnlineStore
) -> None:
    assert online_features(store, spec, rows_of())["tail_late_frac_28d"] == [0.25]
    write(spec, storage, partition="2013-02", at=FEBRUARY_AT, value=0.5)
    materialize(spec=spec, storage=storage, partition="2013-02")
    assert online_features(store, spec, rows_of())["tail_late_frac_28d"] == [0.5]
    for path in online_path(storage).parent.glob("online.db*"):
        path.unlink()
    with pytest.raises(NotFoundError, match="got nothing there yet"):
        online_features(store, spec, rows_of())
    materialize(spec=spec, storage=storage, partition="2013-01")
    assert online_features(store, spec, rows_of())["tail_late_frac_28d"] == [0.25]


def test_before_the_first_materialization(spec: ModelSpec, storage: Storage) -> None:
    store = open_store(spec=spec, storage=storage)
    with pytest.raises(NotFoundError, match=r"must hold the model's features; .*Materialize a partition first"):
        online_features(store, spec, rows_of())


def test_another_models_store_holds_nothing_of_this_one(spec: ModelSpec, store: OnlineStore) -> None:
    with pytest.raises(NotFoundError):
        online_features(store, spec.model_copy(update={"name": "other"}), rows_of())


def test_a_corrupt_file_is_named(spec: ModelSpec, storage: Storage) -> None:
    path = online_path(storage)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database, but long enough to be taken for one" * 50)
    with pytest.raises(CorruptArtifactError, match="must be an SQLite database"):
        online_features(open_store(spec=spec, storage=storage), spec, rows_of())


def test_a_folder_in_its_place_is_an_error_of_the_service(spec: ModelSpec, storage: Storage) -> None:
    online_path(storage).mkdir(parents=True)
    with pytest.raises(ServiceError, match="must answer within 5 s"):
        online_features(open_store(spec=spec, storage=storage), spec, rows_of())


def test_an_object_store_and_a_model_without_views_are_refused(spec: ModelSpec, storage: Storage) -> None:
    with pytest.raises(SetupError, match="needs a local disk; got 's3://bucket/lake/feast'"):
        open_store(spec=spec, storage=Storage(root="s3://bucket/lake"))
    bare = spec.model_copy(update={"features": spec.features.model_copy(update={"store": {}})})
    with pytest.raises(BadInputError, match=r"must declare features\.store"):
        open_store(spec=bare, storage=storage)


def test_no_answer_mixes_two_materializations(spec: ModelSpec, storage: Storage, store: OnlineStore) -> None:
    seen: set[tuple[float | None, ...]] = set()
    failures: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                found = online_features(store, spec, rows_of())
                seen.add(tuple(value for (value,) in found.values()))
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(8):
        write(spec, storage, partition="2013-01", at=JANUARY_AT, value=float(number))
        materialize(spec=spec, storage=storage, partition="2013-01")
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert len(seen) > 1  # the readers did see it change
    assert {len(set(values)) for values in seen} == {1}
    assert online_features(store, spec, rows_of())["carrier_late_frac_28d"] == [7.0]


def test_a_reader_does_not_wait_for_a_writer(spec: ModelSpec, storage: Storage, store: OnlineStore) -> None:
    online_features(store, spec, rows_of())
    with sqlite3.connect(online_path(storage), isolation_level=None) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        assert online_features(store, spec, rows_of())["carrier_late_frac_28d"] == [0.25]
        assert time.monotonic() - started < 1
        writer.execute("ROLLBACK")
    writer.close()


def test_16_rows_cost_less_than_5_ms(spec: ModelSpec, store: OnlineStore) -> None:
    rows = {name: [value] * 8 + [f"{value}{n}" for n in range(8)] for name, value in ENTITIES.items()}
    spent_ms = []
    for _ in range(50):
        started = time.perf_counter()
        online_features(store, spec, rows)
        spent_ms.append((time.perf_counter() - started) * 1e3)
    assert statistics.median(spent_ms) < 5


def test_content_hash_tells_values_and_times_apart(spec: ModelSpec, storage: Storage, store: OnlineStore) -> None:
    first = content_hash(store, spec)
    materialize(spec=spec, storage=storage, partition="2013-01")
    assert content_hash(store, spec) == first
    write(spec, storage, partition="2013-01", at=JANUARY_AT, value=0.5)
    materialize(spec=spec, storage=storage, partition="2013-01")
    assert content_hash(store, spec) != first
