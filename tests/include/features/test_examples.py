from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from include.errors import NotFoundError, SpecError
from include.features import definitions
from include.features.examples import (
    current_versions,
    example_schema,
    feature_schema,
    feature_table,
    load_examples,
    training_set,
)
from include.lake.tables import write_partition

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage
    from include.spec import ModelSpec


def row_of(examples: pa.Table, example_id: str) -> dict[str, Any]:
    (row,) = examples.filter(pc.equal(examples["example_id"], example_id)).to_pylist()
    return row


def write_features(spec: ModelSpec, storage: Storage, view: str, rows: list[dict[str, Any]]) -> None:
    schema = feature_schema(spec.features.store[view])
    for partition in sorted({row["partition"] for row in rows}):
        chosen = [{"published_at": row["available_at"], **row} for row in rows if row["partition"] == partition]
        table = pa.Table.from_pylist(chosen, schema=schema)
        uri = storage.table(spec.name, feature_table(view))
        write_partition(uri=uri, table=table, partition=partition, storage_options=storage.options)


def test_one_real_flight(spec: ModelSpec, storage: Storage, publish: Callable[..., None]) -> None:
    publish("2013-01", step=20)
    row = row_of(load_examples(spec=spec, storage=storage, partitions=("2013-01",)), "2013-01-01-UA-1545-EWR")
    assert row["event_at"] == datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    # departed 2 minutes late, 227 minutes in the air, 4 hours for taxiing
    assert row["known_at"] == datetime(2013, 1, 1, 10, 15, tzinfo=UTC) + timedelta(minutes=2 + 227, hours=4)
    assert row["label"] is False  # 11 minutes late
    assert (row["carrier"], row["origin"], row["dest"], row["route"]) == ("UA", "EWR", "IAH", "EWR-IAH")
    assert (row["tailnum"], row["day_of_week"], row["partition"]) == ("N14228", "Tue", "2013-01")
    assert (row["dep_minute_of_day"], row["arr_minute_of_day"], row["distance"]) == (315, 8 * 60 + 19, 1400)
    assert row["temp"] == pytest.approx(39.02)


def test_columns_and_types_are_declared_and_rows_ordered(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    publish("2013-01", step=20)
    examples = load_examples(spec=spec, storage=storage, partitions=("2013-01",))
    assert examples.schema.equals(example_schema(spec))
    assert examples.num_rows == pc.count_distinct(examples["example_id"]).as_py()
    assert examples["event_at"].to_pylist() == sorted(examples["event_at"].to_pylist())


def test_a_cancelled_flight_has_no_outcome_and_is_not_trained_on(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    publish("2013-02", step=7)
    examples = load_examples(spec=spec, storage=storage, partitions=("2013-02",))
    unknown = examples.filter(pc.is_null(examples["label"]))
    assert unknown.num_rows > 0
    assert unknown["known_at"].null_count == unknown.num_rows
    trained = training_set(spec=spec, storage=storage, partitions=("2013-02",))
    assert trained.num_rows == examples.num_rows - unknown.num_rows


def test_a_label_is_more_than_15_minutes(spec: ModelSpec, storage: Storage, year: dict[str, pa.Table]) -> None:
    flights = year["flights"].slice(0, 4)
    delays = pa.array([15, 16, None, -3], pa.int64())
    flights = flights.set_column(flights.column_names.index("arr_delay"), "arr_delay", delays)
    _publish(spec, storage, flights, year["weather"].slice(0, 0))
    examples = load_examples(spec=spec, storage=storage, partitions=("2013-01",))
    ids = [f"2013-01-01-{row['carrier']}-{row['flight']}-{row['origin']}" for row in flights.to_pylist()]
    assert [row_of(examples, i)["label"] for i in ids] == [False, True, None, False]


def test_missing_weather_and_tail_number_are_missing_values(
    spec: ModelSpec, storage: Storage, year: dict[str, pa.Table]
) -> None:
    flights = year["flights"].slice(0, 3)
    nothing = pa.nulls(3, pa.string())
    flights = flights.set_column(flights.column_names.index("tailnum"), "tailnum", nothing)
    _publish(spec, storage, flights, year["weather"].slice(0, 0))
    training = training_set(spec=spec, storage=storage, partitions=("2013-01",))
    assert training.num_rows == 3
    for name in ("temp", "visib", "tailnum", "tail_late_frac_28d"):
        assert training[name].null_count == 3, name


def test_months_without_rows_or_tables(spec: ModelSpec, storage: Storage, publish: Callable[..., None]) -> None:
    with pytest.raises(NotFoundError, match="flights"):
        load_examples(spec=spec, storage=storage, partitions=("2013-01",))
    assert current_versions(spec=spec, storage=storage) == {}
    publish("2013-01", step=50)
    assert training_set(spec=spec, storage=storage, partitions=("2013-05",)).num_rows == 0
    assert current_versions(spec=spec, storage=storage) == {"flights": 0, "weather": 0}


def test_the_newest_available_row_is_joined_and_never_a_later_one(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    publish("2013-03", step=30)
    moments = {"2013-01": datetime(2013, 2, 1, tzinfo=UTC), "2013-02": datetime(2013, 3, 15, tzinfo=UTC)}
    late = {"2013-03": datetime(2013, 4, 15, tzinfo=UTC)}
    rows = [
        {"carrier": "UA", "carrier_late_frac_28d": 0.1 * n, "available_at": at, "partition": key}
        for n, (key, at) in enumerate((moments | late).items(), start=1)
    ]
    write_features(spec, storage, "carrier_lateness", rows)
    training = training_set(spec=spec, storage=storage, partitions=("2013-03",))
    switch, seen = moments["2013-02"], set()
    for row in training.to_pylist():
        expected = None
        if row["carrier"] == "UA":
            expected = 0.1 if row["event_at"] < switch else 0.2
        assert row["carrier_late_frac_28d"] == expected
        seen.add(expected)
    assert seen == {None, 0.1, 0.2}


def test_training_sees_the_default_that_serving_gives_for_what_is_missing(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    publish("2013-03", step=30)
    at = datetime(2013, 2, 1, tzinfo=UTC)
    known = {"carrier": "UA", "carrier_late_frac_28d": 0.1, "available_at": at, "partition": "2013-01"}
    write_features(spec, storage, "carrier_lateness", [known])
    store = dict(spec.features.store)
    store["carrier_lateness"] = store["carrier_lateness"].model_copy(
        update={"defaults": {"carrier_late_frac_28d": 0.5, "carrier_num_flights_28d": 0.0}}
    )
    declared = spec.model_copy(update={"features": spec.features.model_copy(update={"store": store})})
    found = training_set(spec=declared, storage=storage, partitions=("2013-03",)).to_pylist()
    names = ("carrier_late_frac_28d", "carrier_num_flights_28d", "origin_late_frac_28d")
    seen = {(row["carrier"] == "UA", *(row[name] for name in names)) for row in found}
    assert seen == {(True, 0.1, 0.0, None), (False, 0.5, 0.0, None)}


@pytest.mark.parametrize(("clock", "is_fresh"), [("replay", True), ("wall", False)])
def test_age_is_counted_to_the_moment_of_serving(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], clock: str, is_fresh: bool
) -> None:
    """US was last seen 62 days before the newest materialization; every event is later than that."""
    publish("2013-04", step=60)
    newest = datetime(2013, 4, 1, 4, tzinfo=UTC)
    rows = [
        {"carrier": "US", "carrier_late_frac_28d": 0.5, "available_at": newest - timedelta(days=62)},
        {"carrier": "UA", "carrier_late_frac_28d": 0.5, "available_at": newest - timedelta(days=62, seconds=1)},
        {"carrier": "AA", "carrier_late_frac_28d": 0.5, "available_at": newest},
    ]
    keys = ("2013-01", "2013-01", "2013-03")
    write_features(
        spec, storage, "carrier_lateness", [{**row, "partition": key} for row, key in zip(rows, keys, strict=True)]
    )
    spec = spec.model_copy(update={"source": spec.source.model_copy(update={"clock": clock})})
    found = training_set(spec=spec, storage=storage, partitions=("2013-04",))
    values = {
        carrier: set(found.filter(pc.equal(found["carrier"], carrier))["carrier_late_frac_28d"].to_pylist())
        for carrier in ("US", "UA", "AA")
    }
    assert values == {"US": {0.5} if is_fresh else {None}, "UA": {None}, "AA": {0.5}}


def test_pinned_versions_are_read_whatever_came_later(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    publish("2013-01", step=50)
    pinned = current_versions(spec=spec, storage=storage)
    before = training_set(spec=spec, storage=storage, partitions=("2013-01",), versions=pinned)
    publish("2013-01", step=25)
    at = datetime(2013, 1, 1, tzinfo=UTC)
    row = {"carrier": "UA", "carrier_late_frac_28d": 0.1, "available_at": at, "partition": "2013-01"}
    write_features(spec, storage, "carrier_lateness", [row])
    assert training_set(spec=spec, storage=storage, partitions=("2013-01",), versions=pinned).equals(before)
    assert training_set(spec=spec, storage=storage, partitions=("2013-01",)).num_rows > before.num_rows


def test_a_query_without_a_declared_column_is_refused(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    publish("2013-01", step=50)
    wider = spec.model_copy(update={"slices": ("runway",)})
    with pytest.raises(SpecError, match=r"must return example_id, .*; got none of runway"):
        load_examples(spec=wider, storage=storage, partitions=("2013-01",))


def test_a_label_of_another_type_than_the_tasks_is_refused(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    publish("2013-01", step=50)
    number = spec.model_copy(update={"task": "regression"})
    with pytest.raises(SpecError, match="must return a label that can be double, for its task is regression; got bool"):
        load_examples(spec=number, storage=storage, partitions=("2013-01",))


def test_definitions_must_match_model_yaml(spec: ModelSpec) -> None:
    with pytest.raises(SpecError, match="must declare EXAMPLES_SQL, VIEWS and HISTORY_DAYS"):
        definitions.load_definitions(spec.model_copy(update={"name": "no_such_model"}))
    store = dict(spec.features.store)
    store.pop("tail_lateness")
    features = spec.features.model_copy(update={"store": store})
    with pytest.raises(SpecError, match=r"VIEWS must be those of features\.store"):
        definitions.load_definitions(spec.model_copy(update={"features": features}))


def _publish(spec: ModelSpec, storage: Storage, flights: pa.Table, weather: pa.Table) -> None:
    for table, rows in (("flights", flights), ("weather", weather)):
        uri = storage.table(spec.name, table)
        write_partition(uri=uri, table=rows, partition="2013-01", storage_options=storage.options)
