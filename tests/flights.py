"""Real flights in the lake without the stages that bring them there, and answers about them in the prediction log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from include.demo.flights import month_files
from include.drift.reference import make_reference
from include.features.examples import load_examples, training_set
from include.lake.csv_reader import read_csv
from include.lake.tables import write_partition

if TYPE_CHECKING:
    from include.lake.storage import Storage
    from include.spec import ModelSpec


def publish_month(*, spec: ModelSpec, storage: Storage, partition: str, num_flights: int = 1500) -> None:
    """Publish some flights of a month, spread over its days, and all of its weather."""
    files = month_files(partition, max_flights=num_flights)
    for name, table in spec.source.tables.items():
        rows = read_csv(files[table.file], file=table.file, table=table)
        uri = storage.table(spec.name, name)
        write_partition(uri=uri, table=rows, partition=partition, storage_options=storage.options)


def evening_scores(examples: pa.Table) -> np.ndarray:
    """Return the scores of a simple model that does know something: the later the departure, the later the arrival."""
    return 0.05 + examples["dep_minute_of_day"].to_numpy() / 3600


def log_predictions(
    *,
    spec: ModelSpec,
    storage: Storage,
    partition: str,
    version: str = "1",
    role: str = "champion",
    probability: float | None = None,
    logged_at_us: int = 1_000_000,
    rows: slice = slice(None),
) -> pa.Table:
    """Log a version's answers about some examples of a partition, as the model server does, and return the examples."""
    examples = load_examples(spec=spec, storage=storage, partitions=(partition,))
    examples = examples.take(np.arange(examples.num_rows)[rows])
    scores = evening_scores(examples) if probability is None else np.full(examples.num_rows, probability)
    written = {
        "request_id": pa.repeat(f"{version}-{role}-{logged_at_us}", examples.num_rows),
        "example_id": examples["example_id"],
        "model_version": pa.repeat(version, examples.num_rows),
        "role": pa.repeat(role, examples.num_rows),
        "probability": pa.array(scores, pa.float32()),
        "logged_at": pa.repeat(pa.scalar(logged_at_us, pa.timestamp("us", tz="UTC")), examples.num_rows),
    }
    written |= {feature.name: examples[feature.name] for feature in spec.features.request}
    written |= {name: pa.repeat(0.2, examples.num_rows) for name in spec.features.store_fields}
    folder = Path(storage.predictions(spec.name))
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{partition}-{version}-{role}-{logged_at_us}-{rows.start}.parquet"
    pq.write_table(pa.table(written), folder / name)
    return examples


def reference_of_month(*, spec: ModelSpec, storage: Storage, partition: str) -> dict[str, Any]:
    """Return the drift reference of the simple model, trained on a month."""
    table = training_set(spec=spec, storage=storage, partitions=(partition,))
    return make_reference(table=table, predicted_BK=evening_scores(table), spec=spec)
