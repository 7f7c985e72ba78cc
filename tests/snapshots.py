"""Small training sets with the columns of `flight_delays`: lateness follows the hour and the carrier."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from include.lake.files import write_bytes
from include.spec import load_spec
from include.training.job import Job, SnapshotRef, make_job

if TYPE_CHECKING:
    from include.lake.storage import Storage
    from include.spec import ModelSpec

SPEC = load_spec("flight_delays")
COMMIT = "commit-of-the-tests"
FAST = {"max_epochs": 4, "patience_epochs": 4, "batch_size": 256, "learning_rate": 0.01, "average_decay": 0.8}


def small_table(num_rows: int = 3000, *, seed: int = 5) -> pa.Table:
    rng = np.random.default_rng(seed)
    first = datetime(2013, 1, 1, 12, tzinfo=UTC)
    events = [first + timedelta(minutes=45 * number) for number in range(num_rows)]
    columns: dict[str, object] = {
        "example_id": [f"row-{number}" for number in range(num_rows)],
        "event_at": pa.array(events, pa.timestamp("us", tz="UTC")),
        "partition": [event.strftime("%Y-%m") for event in events],
        "carrier": rng.choice(["AA", "B6", "UA"], num_rows),
        "origin": rng.choice(["EWR", "JFK"], num_rows),
        "dest": rng.choice(["LAX", "ORD", "SFO"], num_rows),
        "day_of_week": [event.strftime("%a") for event in events],
        "tailnum": rng.choice(["N1", "N2", "N3"], num_rows),
    }
    columns["route"] = [f"{a}-{b}" for a, b in zip(columns["origin"], columns["dest"], strict=True)]  # type: ignore[call-overload]
    for name in SPEC.features.numeric:
        values = rng.normal(size=num_rows)
        columns[name] = pa.array(values, mask=rng.uniform(size=num_rows) < 0.1)
    hour = rng.uniform(300, 1400, num_rows)
    columns["dep_minute_of_day"] = hour
    logit = (hour - 900) / 200 + np.where(columns["carrier"] == "AA", 1.0, -1.0)  # type: ignore[comparison-overlap]
    columns["label"] = rng.uniform(size=num_rows) < 1 / (1 + np.exp(-logit))
    return pa.table(columns)


def write_snapshot(storage: Storage, table: pa.Table, *, name: str = "small", spec: ModelSpec = SPEC) -> SnapshotRef:
    sink = BytesIO()
    pq.write_table(table, sink)
    uri = storage.snapshot(spec.name, name)
    write_bytes(f"{uri}/data.parquet", sink.getvalue(), storage=storage)
    manifest = {
        "sha256": hashlib.sha256(sink.getvalue()).hexdigest(),
        "num_rows": table.num_rows,
        "partitions": ["2013-01", "2013-02", "2013-03"],
    }
    write_bytes(f"{uri}/manifest.json", json.dumps({**manifest, "versions": {"flights": 3}}).encode(), storage=storage)
    return SnapshotRef(uri=uri, **manifest)  # type: ignore[arg-type]


def small_job(
    storage: Storage,
    *,
    table: pa.Table | None = None,
    spec: ModelSpec = SPEC,
    commit: str = COMMIT,
    **params: object,
) -> Job:
    ref = write_snapshot(storage, small_table() if table is None else table, spec=spec)
    return make_job(spec=spec, snapshot=ref, commit=commit, storage=storage, params={**FAST, **params})
