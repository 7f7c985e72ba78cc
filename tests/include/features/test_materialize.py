from __future__ import annotations

import itertools
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from include.errors import NotFoundError
from include.features.build import build_features
from include.features.encoding import Encoding
from include.features.examples import feature_schema, feature_table, read_features, training_set
from include.features.feast_repository import ensure_applied
from include.features.materialize import materialize
from include.features.store import content_hash, online_features, online_path, open_store
from include.lake.storage import Storage
from include.lake.tables import read_table, write_partition

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.spec import ModelSpec

NOW = datetime(2024, 5, 1, tzinfo=UTC)
MOMENTS = {"2013-01": datetime(2013, 2, 1, 5, tzinfo=UTC), "2013-02": datetime(2013, 3, 1, 5, tzinfo=UTC)}
MOMENTS["2013-03"] = datetime(2013, 4, 1, 4, tzinfo=UTC)

# Ends itself with SIGKILL when it calls a function for the n-th time, as the kernel would.
KILLED_RUN = """
import importlib, os, signal, sys
from datetime import datetime, UTC
from include.lake.storage import Storage
from include.spec import load_spec

root, partition, module, name, calls = sys.argv[1:]
target, left = importlib.import_module(module), [int(calls)]
real = getattr(target, name)

def deadly(*args, **kwargs):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)

setattr(target, name, deadly)
from include.features.build import build_features
from include.features.materialize import materialize
spec, storage = load_spec("flight_delays"), Storage(root=root)
build_features(spec=spec, storage=storage, partition=partition, published_at=datetime(2024, 5, 1, tzinfo=UTC))
materialize(spec=spec, storage=storage, partition=partition)
"""


def write_carriers(spec: ModelSpec, storage: Storage, partition: str, carriers: dict[str, float]) -> None:
    """Write carriers' features; the other views hold nothing."""
    for view, view_spec in spec.features.store.items():
        rows = [
            {view_spec.entity: carrier, **dict.fromkeys(view_spec.fields, value), "partition": partition}
            | {"available_at": MOMENTS[partition], "published_at": MOMENTS[partition]}
            for carrier, value in carriers.items()
            if view == "carrier_lateness"
        ]
        table = pa.Table.from_pylist(rows, schema=feature_schema(view_spec))
        uri = storage.table(spec.name, feature_table(view))
        write_partition(uri=uri, table=table, partition=partition, storage_options=storage.options)


def carriers_online(spec: ModelSpec, storage: Storage, *carriers: str) -> list[float | None]:
    rows = {name: list(carriers) for name in spec.features.entities}
    return online_features(open_store(spec=spec, storage=storage), spec, rows)["carrier_late_frac_28d"]


def run_month(spec: ModelSpec, storage: Storage, partition: str) -> None:
    build_features(spec=spec, storage=storage, partition=partition, published_at=NOW)
    materialize(spec=spec, storage=storage, partition=partition)


@pytest.mark.parametrize("order", list(itertools.permutations(MOMENTS)))
def test_an_older_row_never_replaces_a_newer_one(spec: ModelSpec, storage: Storage, order: tuple[str, ...]) -> None:
    values = {"2013-01": {"UA": 0.1, "AA": 0.1}, "2013-02": {"UA": 0.2, "AA": 0.2}, "2013-03": {"UA": 0.3, "B6": 0.3}}
    for partition in order:
        write_carriers(spec, storage, partition, values[partition])
        materialize(spec=spec, storage=storage, partition=partition)
    assert carriers_online(spec, storage, "UA", "AA", "B6", "DL") == [0.3, 0.2, 0.3, None]


def test_concurrent_materializations_end_with_the_newest(spec: ModelSpec, storage: Storage) -> None:
    for number, partition in enumerate(MOMENTS):
        write_carriers(spec, storage, partition, {f"C{n}": float(number) for n in range(300)})
    ensure_applied(spec=spec, storage=storage)
    for order in itertools.permutations(MOMENTS):
        writers = [
            threading.Thread(target=materialize, kwargs={"spec": spec, "storage": storage, "partition": partition})
            for partition in order
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert set(carriers_online(spec, storage, *(f"C{n}" for n in range(300)))) == {2.0}


def test_repeating_writes_the_same_and_counts(spec: ModelSpec, storage: Storage) -> None:
    write_carriers(spec, storage, "2013-02", {"UA": 0.2, "AA": 0.2})
    done = materialize(spec=spec, storage=storage, partition="2013-02")
    assert (done.num_entities["carrier_lateness"], done.num_entities["tail_lateness"]) == (2, 0)
    assert (done.num_written, done.num_withdrawn) == (4, 0)
    before = content_hash(open_store(spec=spec, storage=storage), spec)
    assert materialize(spec=spec, storage=storage, partition="2013-02") == done
    assert content_hash(open_store(spec=spec, storage=storage), spec) == before
    write_carriers(spec, storage, "2013-01", {"UA": 0.1})
    assert materialize(spec=spec, storage=storage, partition="2013-01").num_written == 0


def test_a_corrected_partition_withdraws_what_it_no_longer_has(spec: ModelSpec, storage: Storage) -> None:
    write_carriers(spec, storage, "2013-01", {"UA": 0.1, "AA": 0.1})
    write_carriers(spec, storage, "2013-02", {"UA": 0.2, "AA": 0.2, "B6": 0.2})
    for partition in ("2013-01", "2013-02"):
        materialize(spec=spec, storage=storage, partition=partition)
    write_carriers(spec, storage, "2013-02", {"UA": 0.25})
    done = materialize(spec=spec, storage=storage, partition="2013-02")
    assert (done.num_written, done.num_withdrawn) == (2, 2)
    assert carriers_online(spec, storage, "UA", "AA", "B6") == [0.25, 0.1, None]
    write_carriers(spec, storage, "2013-02", {})
    done = materialize(spec=spec, storage=storage, partition="2013-02")
    assert (done.num_written, done.num_withdrawn) == (0, 1)
    assert carriers_online(spec, storage, "UA", "AA", "B6") == [0.1, 0.1, None]


def test_partitions_that_come_late_lose_no_value(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    wall = spec.model_copy(update={"source": spec.source.model_copy(update={"clock": "wall"})})
    for partition, step in (("2013-03", 2000), ("2013-01", 20), ("2013-02", 2000)):
        publish(partition, step=step)
        run_month(wall, storage, partition)
    newest: dict[str, float] = {}
    for partition in MOMENTS:
        rows = read_features(spec=wall, storage=storage, view="tail_lateness", partitions=(partition,))
        newest |= dict(zip(rows["tailnum"].to_pylist(), rows["tail_late_frac_28d"].to_pylist(), strict=True))
    asked = {name: list(newest) for name in wall.features.entities}
    online = online_features(open_store(spec=wall, storage=storage), wall, asked, as_of=NOW)
    assert online["tail_late_frac_28d"] == list(newest.values())
    assert len(newest) > 500


def test_a_partition_that_was_never_built_is_refused(spec: ModelSpec, storage: Storage) -> None:
    with pytest.raises(NotFoundError, match=r"needs features of 2013-01 .*The online store is unchanged"):
        materialize(spec=spec, storage=storage, partition="2013-01")
    assert not online_path(storage).exists()


@pytest.mark.parametrize(
    ("module", "name", "calls"),
    [
        ("include.features.build", "write_partition", 2),
        ("include.features.materialize", "encode_value", 300),
        ("include.features.materialize", "Materialized", 0),
    ],
)
def test_killed_anywhere_and_run_again_it_ends_the_same(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], module: str, name: str, calls: int
) -> None:
    publish("2013-01", step=20)
    publish("2013-02", step=20)
    run_month(spec, storage, "2013-01")
    before = content_hash(open_store(spec=spec, storage=storage), spec)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, storage.root, "2013-02", module, name, str(calls)],
        check=False,
        cwd=Path(__file__).parents[3],
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    after = content_hash(open_store(spec=spec, storage=storage), spec)
    assert (after == before) == (name != "Materialized")  # that one comes after the commit
    run_month(spec, storage, "2013-02")

    undisturbed = Storage(root=f"{storage.root}-undisturbed")
    for table in spec.source.tables:
        for partition in ("2013-01", "2013-02"):
            rows = read_table(uri=storage.table(spec.name, table), storage_options={}, partitions=[partition])
            uri = undisturbed.table(spec.name, table)
            write_partition(uri=uri, table=rows, partition=partition, storage_options={})
    for partition in ("2013-01", "2013-02"):
        run_month(spec, undisturbed, partition)
    for view in spec.features.store:
        ours, theirs = (read_features(spec=spec, storage=s, view=view) for s in (storage, undisturbed))
        order = [(spec.features.store[view].entity, "ascending"), ("partition", "ascending")]
        assert ours.sort_by(order).equals(theirs.sort_by(order))
    expected = content_hash(open_store(spec=spec, storage=undisturbed), spec)
    assert content_hash(open_store(spec=spec, storage=storage), spec) == expected


def test_the_rows_are_byte_for_byte_those_that_feast_writes(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    from include.features.feast_repository import feast_store

    publish("2013-01", step=50)
    run_month(spec, storage, "2013-01")
    other = Storage(root=f"{storage.root}-feast")
    ensure_applied(spec=spec, storage=other)
    feast = feast_store(spec=spec, storage=other)
    for view in spec.features.store:
        rows = read_features(spec=spec, storage=storage, view=view).drop_columns(["partition"])
        feast.write_to_online_store(view, rows.to_pandas())
    for view in spec.features.store:
        assert _table(storage, spec, view) == _table(other, spec, view)


def _table(storage: Storage, spec: ModelSpec, view: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(online_path(storage))) as connection:
        return connection.execute(f'SELECT * FROM "{spec.name}_{view}" ORDER BY 1, 2').fetchall()


def test_served_features_equal_the_training_features_of_the_same_flights(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None]
) -> None:
    """Replay: after the materialization of one month, all flights of the next are asked for and then trained on."""
    encoding = Encoding(vocabulary={}, numeric=spec.features.store_fields)
    for month, following in (("2013-01", "2013-02"), ("2013-02", "2013-03"), ("2013-03", "2013-04")):
        publish(month)
        run_month(spec, storage, month)
        publish(following)
        flights = training_set(spec=spec, storage=storage, partitions=(following,))
        entities = {name: flights[name].to_pylist() for name in spec.features.entities}
        served = online_features(open_store(spec=spec, storage=storage), spec, entities)
        trained = {name: flights[name].to_pylist() for name in spec.features.store_fields}
        _, served_BN = encoding.encode(served)
        _, trained_BN = encoding.encode(trained)
        np.testing.assert_array_equal(served_BN, trained_BN)
        assert flights.num_rows > 20_000
        assert 0 < pc.sum(pc.is_null(flights["tail_late_frac_28d"])).as_py() < flights.num_rows / 4


def test_the_first_month_has_no_store_features(spec: ModelSpec, storage: Storage, publish: Callable[..., None]) -> None:
    publish("2013-01", step=20)
    run_month(spec, storage, "2013-01")
    flights = training_set(spec=spec, storage=storage, partitions=("2013-01",))
    assert all(flights[name].null_count == flights.num_rows for name in spec.features.store_fields)
