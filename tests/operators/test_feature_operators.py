from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import GateError, InconclusiveError, NotFoundError, PartitionError
from include.features.feast_layout import encode_value
from include.features.feast_repository import connect_for_writing
from include.features.store import online_features, online_path, open_store
from include.lake.tables import read_table, write_partition
from include.spec import load_spec
from include.testing.tasks import run_task
from operators.assets import features_asset
from operators.build_features import BuildFeaturesOperator
from operators.check_parity import CheckParityOperator
from operators.ingest_partition import IngestPartitionOperator
from operators.materialize_features import MaterializeFeaturesOperator

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage
    from include.testing.tasks import TaskResult

pytestmark = pytest.mark.usefixtures("connections")

MODEL = "flight_delays"
STAGE = (BuildFeaturesOperator, MaterializeFeaturesOperator, CheckParityOperator)


def run(operator: type[Any], partition: str | None) -> TaskResult:
    return run_task(operator(task_id="task", model=MODEL), partition=partition)


@pytest.fixture
def validated(storage: Storage, landed: Callable[..., None]) -> Callable[..., None]:
    """Return a function that ingests a real month and publishes its good rows without loading Great Expectations."""

    def bring(partition: str, num_flights: int = 1500) -> None:
        landed(partition, num_flights)
        run(IngestPartitionOperator, partition).returned()
        for table in load_spec(MODEL).source.tables:
            staged = read_table(uri=storage.table(MODEL, f"staged_{table}"), storage_options={}, partitions=[partition])
            uri = storage.table(MODEL, table)
            write_partition(uri=uri, table=staged, partition=partition, storage_options={})

    return bring


def test_a_month_is_built_materialized_checked_and_announced(storage: Storage, validated: Callable[..., None]) -> None:
    validated("2013-01")
    results = [run(operator, "2013-01") for operator in STAGE]
    built, done, parity = (result.returned() for result in results)
    assert built["versions"] == {f"features_{view}": 0 for view in load_spec(MODEL).features.store}
    assert set(built["available_at"].values()) == {"2013-02-01T05:00:00+00:00"}
    assert done["num_entities"] == built["num_entities"]
    assert done["num_written"] == 2 * sum(built["num_entities"].values())
    (event,) = results[-1].asset_events
    assert (event.name, event.partition_key) == (features_asset(MODEL).name, "2013-01")
    extra = event.extra
    assert extra == {
        "model": MODEL,
        "partition": "2013-01",
        "versions": {"flights": 0, "weather": 0, **built["versions"]},
        "num_entities": sum(built["num_entities"].values()),
        "available_at": datetime(2013, 2, 1, 5, tzinfo=UTC).isoformat(),
    }
    assert parity.items() >= extra.items()
    assert parity["num_sampled"]["origin_lateness"] == 3
    rows = {"carrier": ["UA"], "origin": ["EWR"], "route": ["EWR-IAH"], "tailnum": ["no such plane"]}
    spec = load_spec(MODEL)
    found = online_features(open_store(spec=spec, storage=storage), spec, rows)
    assert found["carrier_num_flights_28d"][0] > 100
    assert found["tail_num_flights_28d"] == [None]


@pytest.mark.parametrize("operator", STAGE)
@pytest.mark.parametrize(
    ("partition", "message"),
    [
        (None, "a run of 'flight_delays' needs a partition key; got none"),
        ("2013-1", "must look like 2013-01; got '2013-1'"),
        ("2014-01", "partition '2014-01' is outside the source"),
    ],
)
def test_a_run_without_a_partition_of_the_source_is_refused(
    operator: type[Any], partition: str | None, message: str
) -> None:
    with pytest.raises(PartitionError, match=message):
        run(operator, partition).returned()


def test_each_task_refuses_a_month_that_the_one_before_has_not_seen(validated: Callable[..., None]) -> None:
    with pytest.raises(NotFoundError):
        run(BuildFeaturesOperator, "2013-01").returned()
    validated("2013-01")
    with pytest.raises(NotFoundError, match="for 2013-02 need its published rows"):
        run(BuildFeaturesOperator, "2013-02").returned()
    with pytest.raises(NotFoundError, match="Build the partition's features first"):
        run(MaterializeFeaturesOperator, "2013-01").returned()
    run(BuildFeaturesOperator, "2013-01").returned()
    with pytest.raises(NotFoundError, match="Materialize a partition first"):
        run(CheckParityOperator, "2013-01").returned()
    run(MaterializeFeaturesOperator, "2013-01").returned()
    with pytest.raises(InconclusiveError, match="for 2013-02 needs at least 1 entity"):
        run(CheckParityOperator, "2013-02").returned()


def test_a_difference_sends_no_event(storage: Storage, validated: Callable[..., None]) -> None:
    validated("2013-01")
    run(BuildFeaturesOperator, "2013-01").returned()
    run(MaterializeFeaturesOperator, "2013-01").returned()
    connection = connect_for_writing(online_path(storage))
    connection.execute(f"UPDATE {MODEL}_carrier_lateness SET value = ?", [encode_value(0.5)])
    connection.close()
    result = run(CheckParityOperator, "2013-01")
    assert isinstance(result.error, GateError)
    assert "must be the same offline and online, 0 differences allowed" in str(result.error)
    assert result.asset_events == ()
