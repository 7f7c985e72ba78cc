from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import GateError, InconclusiveError, NotFoundError
from include.features import parity as parity_module
from include.features.build import build_features
from include.features.examples import feature_table, read_features
from include.features.feast_layout import encode_value
from include.features.materialize import materialize
from include.features.parity import check_parity
from include.features.store import online_path, read_view
from include.lake.tables import write_partition

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from include.lake.storage import Storage
    from include.spec import ModelSpec

NOW = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
def january(spec: ModelSpec, storage: Storage, publish: Callable[..., None]) -> Callable[..., None]:
    def run(partition: str = "2013-01", *, step: int = 10) -> None:
        publish(partition, step=step)
        build_features(spec=spec, storage=storage, partition=partition, published_at=NOW)
        materialize(spec=spec, storage=storage, partition=partition)

    run()
    return run


def change_online(spec: ModelSpec, storage: Storage, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(online_path(storage))) as connection, connection:
        connection.execute(statement.replace("TABLE", f'"{spec.name}_origin_lateness"'), values)


def test_equal_stores_pass_and_all_small_views_are_compared_whole(
    spec: ModelSpec, storage: Storage, january: Callable[..., None]
) -> None:
    parity = check_parity(spec=spec, storage=storage, partition="2013-01")
    assert parity.num_sampled["origin_lateness"] == parity.num_entities["origin_lateness"] == 3
    assert parity.num_sampled["tail_lateness"] == spec.features.parity_samples < parity.num_entities["tail_lateness"]
    assert parity.num_values == 2 * sum(parity.num_sampled.values())
    assert parity.available_at == datetime(2013, 2, 1, 5, tzinfo=UTC)


def test_the_sample_is_the_same_each_time_and_another_for_each_partition(
    spec: ModelSpec, storage: Storage, january: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    january("2013-02")
    drawn: list[tuple[str, ...]] = []

    def spy(connection: sqlite3.Connection, *, entities: list[str], **others: Any) -> Any:
        drawn.append(tuple(entities))
        return read_view(connection, entities=entities, **others)

    monkeypatch.setattr(parity_module, "read_view", spy)
    for partition in ("2013-01", "2013-01", "2013-02"):
        check_parity(spec=spec, storage=storage, partition=partition)
    first, again, other = (drawn[start : start + 4] for start in (0, 4, 8))
    assert first == again
    assert first[3] != other[3]


def test_an_older_partition_is_compared_with_what_is_newest_now(
    spec: ModelSpec, storage: Storage, january: Callable[..., None]
) -> None:
    january("2013-02")
    parity = check_parity(spec=spec, storage=storage, partition="2013-01")
    assert parity.available_at == datetime(2013, 2, 1, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("statement", "values", "online"),
    [
        ("UPDATE TABLE SET value = ? WHERE value_text = ?", (encode_value(0.5),), "0.5 since 2013-02-01T05:00:00"),
        ("UPDATE TABLE SET value = ? WHERE value_text = ?", (b"",), "None since 2013-02-01T05:00:00"),
        ("UPDATE TABLE SET event_ts = event_ts - ? WHERE value_text = ?", (1,), "since 2013-02-01T04:59:59"),
        ("DELETE FROM TABLE WHERE value_text = ?", (), "absent online"),
    ],
)
def test_any_difference_is_named(
    spec: ModelSpec,
    storage: Storage,
    january: Callable[..., None],
    statement: str,
    values: tuple[Any, ...],
    online: str,
) -> None:
    rows = read_features(spec=spec, storage=storage, view="origin_lateness").to_pylist()
    changed = next(row for row in rows if row["origin"] == "EWR")
    change_online(spec, storage, statement, *values, str(changed["origin_late_frac_28d"]))
    with pytest.raises(GateError) as caught:
        check_parity(spec=spec, storage=storage, partition="2013-01")
    message = str(caught.value)
    assert "features of 'flight_delays' for 2013-01 must be the same offline and online" in message
    assert f"origin_late_frac_28d of origin 'EWR' is {changed['origin_late_frac_28d']} since" in message
    assert online in message
    assert message.endswith("Run the materialize task again.")


def test_running_materialize_again_mends_it(spec: ModelSpec, storage: Storage, january: Callable[..., None]) -> None:
    change_online(spec, storage, "UPDATE TABLE SET value = ?", encode_value(0.5))
    with pytest.raises(GateError):
        check_parity(spec=spec, storage=storage, partition="2013-01")
    materialize(spec=spec, storage=storage, partition="2013-01")
    check_parity(spec=spec, storage=storage, partition="2013-01")


def test_nothing_to_compare_is_no_pass(spec: ModelSpec, storage: Storage, january: Callable[..., None]) -> None:
    with pytest.raises(InconclusiveError, match=r"for 2013-02 needs at least 1 entity; got 0\."):
        check_parity(spec=spec, storage=storage, partition="2013-02")
    empty = read_features(spec=spec, storage=storage, view="route_lateness").slice(0, 0)
    _write(spec, storage, empty)
    with pytest.raises(InconclusiveError, match="parity of view 'route_lateness'"):
        check_parity(spec=spec, storage=storage, partition="2013-01")


def test_nothing_materialized_is_no_pass(spec: ModelSpec, storage: Storage, publish: Callable[..., None]) -> None:
    publish("2013-01", step=100)
    build_features(spec=spec, storage=storage, partition="2013-01", published_at=NOW)
    with pytest.raises(NotFoundError, match="got nothing there yet"):
        check_parity(spec=spec, storage=storage, partition="2013-01")


def _write(spec: ModelSpec, storage: Storage, rows: pa.Table) -> None:
    uri = storage.table(spec.name, feature_table("route_lateness"))
    write_partition(uri=uri, table=rows, partition="2013-01", storage_options=storage.options)
