from __future__ import annotations

import math
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from prometheus_client import values

from include.errors import BadInputError
from include.features.build import build_features
from include.features.examples import read_features, training_set
from include.features.feast_repository import ensure_applied, feast_store
from include.features.materialize import materialize
from include.features.store import online_features, online_path, open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

    from include.lake.storage import Storage
    from include.spec import ModelSpec

NOW = datetime(2024, 5, 1, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("feast")


@pytest.fixture
def flights(spec: ModelSpec, storage: Storage, publish: Callable[..., None]) -> pa.Table:
    """Materialize January and February, return a sample of March's flights as they would be trained on."""
    for partition in ("2013-01", "2013-02"):
        publish(partition, step=10)
        build_features(spec=spec, storage=storage, partition=partition, published_at=NOW)
        materialize(spec=spec, storage=storage, partition=partition)
    publish("2013-03", step=40)
    return training_set(spec=spec, storage=storage, partitions=("2013-03",))


def references(spec: ModelSpec) -> list[str]:
    return [f"{view}:{name}" for view, view_spec in spec.features.store.items() for name in view_spec.fields]


def entity_frame(spec: ModelSpec, flights: pa.Table) -> pd.DataFrame:
    columns = ["example_id", "event_at", *spec.features.entities]
    return flights.select(columns).rename_columns({"event_at": "event_timestamp"}).to_pandas()


def test_feasts_historical_features_are_the_training_sets(spec: ModelSpec, storage: Storage, flights: pa.Table) -> None:
    store = feast_store(spec=spec, storage=storage)
    job = store.get_historical_features(entity_df=entity_frame(spec, flights), features=references(spec))
    joined = job.to_arrow()
    assert joined["example_id"].to_pylist() == flights["example_id"].to_pylist()  # each row, once, in order
    for name in spec.features.store_fields:
        assert joined[name].to_pylist() == flights[name].to_pylist()
        assert joined[name].null_count < joined.num_rows
    full = store.get_historical_features(
        entity_df=entity_frame(spec, flights),
        features=["carrier_lateness:carrier_late_frac_28d"],
        full_feature_names=True,
    ).to_arrow()
    assert full["carrier_lateness__carrier_late_frac_28d"].equals(joined["carrier_late_frac_28d"])


def test_feasts_own_file_store_agrees_where_it_keeps_the_row_and_drops_others(
    spec: ModelSpec, storage: Storage, flights: pa.Table, tmp_path: Path
) -> None:
    """Its answer is an independent check of the join; what it drops is why it is not the store that is used."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.repo_config import RepoConfig
    from feast.types import Float64, String

    config = RepoConfig(
        project="check",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    view_spec = spec.features.store["tail_lateness"]
    path = tmp_path / "tail.parquet"
    pq.write_table(read_features(spec=spec, storage=storage, view="tail_lateness"), path)
    tail = Entity(name="tailnum", join_keys=["tailnum"], value_type=ValueType.STRING)
    view = FeatureView(
        name="tail_lateness",
        entities=[tail],
        ttl=timedelta(days=view_spec.ttl_days),
        schema=[Field(name="tailnum", dtype=String), *(Field(name=n, dtype=Float64) for n in view_spec.fields)],
        source=FileSource(name="tail", path=str(path), timestamp_field="available_at"),
    )
    store.apply([tail, view])
    known = flights.filter(pc.is_valid(flights["tailnum"]))
    twice = pa.concat_tables([known.slice(0, 1), known])
    names = [f"tail_lateness:{name}" for name in view_spec.fields]
    job = store.get_historical_features(entity_df=entity_frame(spec, twice), features=names)
    theirs = {row["example_id"]: row for row in job.to_arrow().to_pylist()}
    ours = {row["example_id"]: row for row in known.to_pylist()}
    assert len(ours) / 2 < len(theirs) < twice.num_rows
    for example_id, row in theirs.items():
        for name in view_spec.fields:
            expected = ours[example_id][name]
            assert row[name] == expected or (expected is None and math.isnan(row[name]))


def test_feasts_online_features_are_those_that_are_served(spec: ModelSpec, storage: Storage, flights: pa.Table) -> None:
    known = flights.filter(pc.is_valid(flights["tailnum"])).slice(0, 300)  # Feast refuses a missing entity
    rows = {name: [*known[name].to_pylist(), "unseen"] for name in spec.features.entities}
    by_row = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    store = feast_store(spec=spec, storage=storage)
    theirs = store.get_online_features(features=references(spec), entity_rows=by_row).to_dict()
    ours = online_features(open_store(spec=spec, storage=storage), spec, rows)
    assert {name: theirs[name] for name in spec.features.store_fields} == ours


def test_historical_rows_without_what_a_join_needs_are_refused(
    spec: ModelSpec, storage: Storage, flights: pa.Table
) -> None:
    store = feast_store(spec=spec, storage=storage)
    frame = entity_frame(spec, flights).drop(columns=["tailnum"])
    with pytest.raises(BadInputError, match=r"must be a pandas frame with event_timestamp and .*without tailnum"):
        store.get_historical_features(entity_df=frame, features=references(spec)).to_df()


def test_feasts_own_materialize_is_refused(spec: ModelSpec, storage: Storage, flights: pa.Table) -> None:
    store = feast_store(spec=spec, storage=storage)
    before = online_features(open_store(spec=spec, storage=storage), spec, _one(flights, spec))
    with pytest.raises(BadInputError, match="no guard against replacing newer values with older ones"):
        store.materialize(start_date=datetime(2013, 1, 1, tzinfo=UTC), end_date=datetime(2013, 2, 2, tzinfo=UTC))
    assert online_features(open_store(spec=spec, storage=storage), spec, _one(flights, spec)) == before


def test_applying_again_is_free_until_something_changes(spec: ModelSpec, storage: Storage) -> None:
    assert ensure_applied(spec=spec, storage=storage)
    assert not ensure_applied(spec=spec, storage=storage)
    views = {view.name: view for view in feast_store(spec=spec, storage=storage).list_feature_views()}
    assert set(views) == set(spec.features.store)
    assert views["carrier_lateness"].ttl == timedelta(days=62)

    store = dict(spec.features.store)
    del store["tail_lateness"]
    store["carrier_lateness"] = store["carrier_lateness"].model_copy(update={"ttl_days": 40})
    changed = spec.model_copy(update={"features": spec.features.model_copy(update={"store": store})})
    assert ensure_applied(spec=changed, storage=storage)
    views = {view.name: view for view in feast_store(spec=changed, storage=storage).list_feature_views()}
    assert set(views) == {"carrier_lateness", "origin_lateness", "route_lateness"}
    assert views["carrier_lateness"].ttl == timedelta(days=40)


def test_models_share_one_registry_and_one_file(spec: ModelSpec, storage: Storage) -> None:
    other = spec.model_copy(update={"name": "other"})
    for each in (spec, other):
        ensure_applied(spec=each, storage=storage)
    for each in (spec, other):
        names = {view.name for view in feast_store(spec=each, storage=storage).list_feature_views()}
        assert names == set(spec.features.store)
        assert not ensure_applied(spec=each, storage=storage)


@pytest.mark.parametrize("left", ["half a registry aside", "registry but no note", "no registry", "no online store"])
def test_what_a_kill_leaves_is_finished_by_the_next_call(spec: ModelSpec, storage: Storage, left: str) -> None:
    ensure_applied(spec=spec, storage=storage)
    folder = online_path(storage).parent
    if left == "half a registry aside":
        (folder / "registry.new").write_bytes(b"\x0a\xff half")
        _forget(storage)
    elif left == "registry but no note":
        _forget(storage)
    elif left == "no registry":
        (folder / "registry.db").unlink()
    else:
        online_path(storage).unlink()
    assert ensure_applied(spec=spec, storage=storage)
    assert not ensure_applied(spec=spec, storage=storage)
    assert len(feast_store(spec=spec, storage=storage).list_feature_views()) == len(spec.features.store)


def _forget(storage: Storage) -> None:
    with closing(sqlite3.connect(online_path(storage))) as connection, connection:
        connection.execute("DELETE FROM tradewind_applied")


def _one(flights: pa.Table, spec: ModelSpec) -> dict[str, list[Any]]:
    return {name: flights[name].slice(0, 1).to_pylist() for name in spec.features.entities}


def test_loading_feast_leaves_metrics_and_environment_alone() -> None:
    """Feast would send the metrics of this process and of all its children to files in a temporary folder."""
    assert not {"PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR"} & set(os.environ)
    assert values.ValueClass is values.MutexValue
