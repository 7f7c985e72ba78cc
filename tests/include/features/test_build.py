from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from include.errors import NotFoundError, SpecError
from include.features import build as build_module
from include.features.build import build_features
from include.features.examples import feature_schema, load_examples, read_features
from include.lake.tables import partition_commit, write_partition
from include.models.flight_delays import features as flight_features

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.features.build import BuiltFeatures
    from include.lake.storage import Storage
    from include.spec import ModelSpec

NOW = datetime(2024, 5, 1, 12, 0, 0, 1, tzinfo=UTC)
END_OF_FEBRUARY = datetime(2013, 3, 1, 5, tzinfo=UTC)


def build(spec: ModelSpec, storage: Storage, partition: str, at: datetime = NOW) -> BuiltFeatures:
    return build_features(spec=spec, storage=storage, partition=partition, published_at=at)


def on_the_wall(spec: ModelSpec) -> ModelSpec:
    return spec.model_copy(update={"source": spec.source.model_copy(update={"clock": "wall"})})


def test_features_are_the_known_outcomes_of_28_days(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    publish("2013-01", step=10)
    publish("2013-02", step=10)
    built = build(spec, storage, "2013-02")
    examples = load_examples(spec=spec, storage=storage, partitions=("2013-01", "2013-02")).to_pylist()
    history = [
        row
        for row in examples
        if row["label"] is not None
        and row["known_at"] <= END_OF_FEBRUARY
        and row["event_at"] > END_OF_FEBRUARY - timedelta(days=28)
    ]
    for view, view_spec in spec.features.store.items():
        rows = read_features(spec=spec, storage=storage, view=view)
        assert rows.schema.equals(feature_schema(view_spec))
        late, num = view_spec.fields
        groups: dict[str, list[bool]] = {}
        for row in history:
            if row[view_spec.entity] is not None:
                groups.setdefault(row[view_spec.entity], []).append(row["label"])
        assert {row[view_spec.entity]: (row[late], row[num]) for row in rows.to_pylist()} == {
            entity: (sum(labels) / len(labels), float(len(labels))) for entity, labels in groups.items()
        }
        assert built.num_entities[view] == len(groups)
        assert set(rows["available_at"].to_pylist()) == {END_OF_FEBRUARY}


def test_an_outcome_not_yet_known_at_the_end_is_not_used(
    spec: ModelSpec, storage: Storage, year: dict[str, pa.Table]
) -> None:
    flights = year["flights"].filter(pc.equal(year["flights"]["month"], 1))
    early, last = flights.slice(0, 1), flights.slice(flights.num_rows - 400, 400)
    publish_rows(spec, storage, flights=pa.concat_tables([early, last]), weather=year["weather"].slice(0, 0))
    examples = load_examples(spec=spec, storage=storage, partitions=("2013-01",))
    end = datetime(2013, 2, 1, 5, tzinfo=UTC)
    usable = pc.and_(pc.less_equal(examples["known_at"], end), pc.greater(examples["event_at"], end - timedelta(28)))
    num_usable = pc.sum(pc.and_kleene(usable, pc.is_valid(examples["label"]))).as_py()
    assert 0 < num_usable < pc.sum(pc.is_valid(examples["label"])).as_py() - 1  # some landed after midnight
    build(spec, storage, "2013-01")
    rows = read_features(spec=spec, storage=storage, view="origin_lateness")
    assert pc.sum(rows["origin_num_flights_28d"]).as_py() == num_usable


def test_building_again_makes_no_version_and_a_correction_makes_one(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    publish("2013-01", step=50)
    first = build(spec, storage, "2013-01")
    again = build(spec, storage, "2013-01", NOW + timedelta(days=1))
    assert again == first
    publish("2013-01", step=25)
    assert build(spec, storage, "2013-01").versions["features_tail_lateness"] == 1
    commit = partition_commit(
        uri=storage.table(spec.name, "features_tail_lateness"), partition="2013-01", storage_options={}
    )
    assert commit is not None
    assert commit.metadata["source"] == '{"flights": 1, "weather": 0}'


def test_reads_only_the_partitions_that_history_reaches(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for partition in ("2013-01", "2013-02", "2013-03"):
        publish(partition, step=100)
    asked: list[tuple[str, ...]] = []

    def spy(*, partitions: tuple[str, ...], **others: Any) -> pa.Table:
        asked.append(partitions)
        return load_examples(partitions=partitions, **others)

    monkeypatch.setattr(build_module, "load_examples", spy)
    build(spec, storage, "2013-03")
    monkeypatch.setattr(flight_features, "HISTORY_DAYS", 40)
    build(spec, storage, "2013-03")
    build(spec, storage, "2013-01")  # nothing lies before the source's first partition
    assert asked == [("2013-03",), ("2013-02", "2013-03"), ("2013-01",)]


def test_a_partition_that_was_never_published_is_refused(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    publish("2013-01", step=100)
    with pytest.raises(NotFoundError, match=r"for 2013-02 need its published rows; got none\..* unchanged"):
        build(spec, storage, "2013-02")
    assert read_features(spec=spec, storage=storage, view="carrier_lateness").num_rows == 0


def test_a_partition_without_any_known_outcome_has_no_features(
    spec: ModelSpec, storage: Storage, year: dict[str, pa.Table]
) -> None:
    flights = year["flights"].slice(0, 20)
    nothing = pa.nulls(20, pa.int64())
    flights = flights.set_column(flights.column_names.index("arr_delay"), "arr_delay", nothing)
    publish_rows(spec, storage, flights=flights, weather=year["weather"].slice(0, 20))
    assert set(build(spec, storage, "2013-01").num_entities.values()) == {0}


def test_a_view_without_a_declared_field_is_refused(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("2013-01", step=100)
    broken = dict(flight_features.VIEWS) | {"carrier_lateness": "SELECT carrier FROM history GROUP BY carrier"}
    monkeypatch.setattr(flight_features, "VIEWS", broken)
    with pytest.raises(SpecError, match=r"VIEWS\['carrier_lateness'\].* must return carrier, carrier_late_frac_28d"):
        build(spec, storage, "2013-01")


def test_wall_clock_keeps_the_first_publication_in_whole_seconds(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    publish("2013-01", step=100)
    wall = on_the_wall(spec)
    first = build(wall, storage, "2013-01")
    assert set(first.available_at.values()) == {datetime(2024, 5, 1, 12, 0, 1, tzinfo=UTC)}
    assert build(wall, storage, "2013-01", NOW + timedelta(days=3)) == first
    publish("2013-01", step=50)
    assert build(wall, storage, "2013-01", NOW + timedelta(days=9)).available_at == first.available_at


def test_wall_clock_puts_a_late_partition_before_the_newer_one(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    wall = on_the_wall(spec)
    for partition in ("2013-01", "2013-02", "2013-03"):
        publish(partition, step=100)
    newest = build(wall, storage, "2013-03").available_at["carrier_lateness"]
    late = build(wall, storage, "2013-02", NOW + timedelta(days=1)).available_at["carrier_lateness"]
    later = build(wall, storage, "2013-01", NOW + timedelta(days=2)).available_at["carrier_lateness"]
    assert later < late < newest


@pytest.mark.parametrize("order", list(itertools.permutations(["2013-01", "2013-02", "2013-03", "2013-04"])))
@pytest.mark.parametrize("pause", [timedelta(0), timedelta(days=1)])
def test_wall_clock_orders_moments_as_partitions_however_they_come(order: tuple[str, ...], pause: timedelta) -> None:
    moments: dict[str, datetime] = {}
    for number, partition in enumerate(order):
        moments[partition] = build_module._in_order(NOW + number * pause, partition=partition, moments=moments)
    assert [key for key, _ in sorted(moments.items(), key=lambda item: item[1])] == sorted(order)
    assert len(set(moments.values())) == len(order)
    assert moments[order[0]] == NOW


def publish_rows(spec: ModelSpec, storage: Storage, *, flights: pa.Table, weather: pa.Table) -> None:
    for table, rows in (("flights", flights), ("weather", weather)):
        uri = storage.table(spec.name, table)
        write_partition(uri=uri, table=rows, partition="2013-01", storage_options=storage.options)
