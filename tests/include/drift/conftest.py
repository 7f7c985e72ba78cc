"""A partition of real flights, what a model answered about them, and a version that was trained on another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.demo.flights import month_files
from include.drift.champion import Champion
from include.drift.reference import make_reference, parse_reference
from include.features.examples import load_examples, training_set
from include.lake.csv_reader import read_csv
from include.lake.tables import write_partition
from include.spec import ModelSpec, load_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return load_spec("flight_delays")


@pytest.fixture
def publish(spec: ModelSpec, storage: Storage) -> Callable[..., None]:
    """Return a function that publishes a real month, some flights of it spread over its days."""

    def run(partition: str, *, num_flights: int = 1500) -> None:
        files = month_files(partition, max_flights=num_flights)
        for name, table in spec.source.tables.items():
            rows = read_csv(files[table.file], file=table.file, table=table)
            uri = storage.table(spec.name, name)
            write_partition(uri=uri, table=rows, partition=partition, storage_options=storage.options)

    return run


@pytest.fixture
def served(spec: ModelSpec, storage: Storage) -> Callable[..., pa.Table]:
    """Return a function that logs a version's answers about a partition, as the model server does."""

    def run(
        partition: str,
        *,
        version: str = "1",
        role: str = "champion",
        probability: float | None = None,
        logged_at_us: int = 1_000_000,
        rows: slice = slice(None),
        changed: dict[str, object] | None = None,
    ) -> pa.Table:
        examples = load_examples(spec=spec, storage=storage, partitions=(partition,))
        examples = examples.take(np.arange(examples.num_rows)[rows])
        columns = {name: examples[name].to_pylist() for name in (f.name for f in spec.features.request)}
        columns |= {name: [0.2] * examples.num_rows for name in spec.features.store_fields}
        columns |= {name: [value] * examples.num_rows for name, value in (changed or {}).items()}
        hour = np.array(columns["dep_minute_of_day"], dtype=float) / 60
        scores = 0.05 + hour / 60 if probability is None else np.full(examples.num_rows, probability)
        moment = pa.scalar(logged_at_us, pa.timestamp("us", tz="UTC"))
        written = {
            "request_id": pa.repeat(f"{version}-{role}-{logged_at_us}", examples.num_rows),
            "example_id": examples["example_id"],
            "model_version": pa.repeat(version, examples.num_rows),
            "role": pa.repeat(role, examples.num_rows),
            "probability": pa.array(scores, pa.float32()),
            "logged_at": pa.repeat(moment, examples.num_rows),
        }
        written |= {name: pa.array(values) for name, values in columns.items()}
        folder = Path(storage.predictions(spec.name))
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(written), folder / f"{partition}-{version}-{role}-{logged_at_us}-{rows.start}.parquet")
        return examples

    return run


@pytest.fixture
def champion(spec: ModelSpec, storage: Storage, publish: Callable[..., None]) -> Champion:
    """Return version 1, trained on March."""
    publish("2013-03")
    table = training_set(spec=spec, storage=storage, partitions=("2013-03",))
    hour = table["dep_minute_of_day"].to_numpy() / 60
    made = make_reference(table=table, scores=0.05 + hour / 60, spec=spec)
    return Champion(
        version="1",
        reference=parse_reference(json.dumps(made)),
        validation_log_loss=0.5,
        window_start="2013-01",
        window_end="2013-03",
    )
