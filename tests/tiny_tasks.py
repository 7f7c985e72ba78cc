"""A folder of models with one small model of each kind of label, and months of rows that they can learn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from include.lake.tables import write_partition
from include.spec import load_spec

if TYPE_CHECKING:
    from pathlib import Path

    from include.lake.storage import Storage
    from include.spec import ModelSpec

CLASSES = ("small", "medium", "large")
ROWS_PER_MONTH = 450

_SPEC = """
schema_version: 3
name: {name}
description: What becomes of a thing of some color and size?
owner: tests
task: {task}
source:
  timezone: UTC
  first_partition: "2013-01"
  clock: replay
  tables:
    things:
      file: things.csv
      primary_key: [id]
      columns: {{id: string, moment: timestamp, color: string, size: float64, outcome: {outcome}}}
label:
  name: result
  description: What became of it.
{classes}
features:
  request:
    - {{name: color, kind: categorical}}
    - {{name: size, kind: numeric, nullable: true}}
training:
  window_partitions: 3
  max_epochs: 12
  patience_epochs: 12
  batch_size: 64
  learning_rate: 0.02
  average_decay: 0.9
  hidden: [16]
  seed: 1
gates:
  min_loss_gain_vs_baseline: 0.05
  max_loss_increase_vs_champion: 0.1
  min_validation_rows: 100
compression:
  min_agreement_frac: 0.9
  min_speedup: 0.01
{compression}
rollout:
  steps_pct: [50]
  max_error_increase_frac: 0.8
  latency_quantile: 0.5
  max_latency_ratio: 100
  latency_floor_ms: 1000
  agreement_tolerance: {shift}
  max_disagreement_frac: 0.5
  disagreement_margin_frac: 0.4
  max_loss_increase: 1.0
drift:
  min_rows: 100
retraining:
  cooldown_partitions: 0
  min_loss_increase: 0.05
  min_expected_gain: 0.02
slices: [color]
"""
_SQL = """
EXAMPLES_SQL = \"\"\"
SELECT id AS example_id, moment AS event_at, moment AS known_at, outcome AS label, partition, color, size FROM things
\"\"\"
"""
_NETWORK = "from include.training.tabular import build_tabular as build_network\n"


def write_models(folder: Path) -> dict[str, ModelSpec]:
    """Write a regression and a model of three classes, and return their specs by task."""
    texts = {
        "regression": {
            "outcome": "float64",
            "classes": "",
            "compression": "  agreement_tolerance: 2.0\n  max_loss_increase: 1.0",
            "shift": 5.0,
        },
        "multiclass_classification": {
            "outcome": "string",
            "classes": f"  classes: [{', '.join(CLASSES)}]",
            "compression": "  max_loss_increase: 0.05",
            "shift": 0.2,
        },
    }
    specs = {}
    for task, values in texts.items():
        name = f"tiny_{task}"
        (folder / name).mkdir(parents=True)
        (folder / name / "model.yaml").write_text(_SPEC.format(name=name, task=task, **values))
        (folder / name / "features.py").write_text(_SQL)
        (folder / name / "network.py").write_text(_NETWORK)
        specs[task] = load_spec(name, models_dir=folder)
    return specs


def things(spec: ModelSpec, partition: str, *, shift: float = 0.0) -> pa.Table:
    """Return a month of things: outcomes follow color and size, and are `shift` larger than they were before."""
    rng = np.random.default_rng(int(partition[-2:]))
    first = datetime.strptime(partition, "%Y-%m").replace(tzinfo=UTC)
    color = rng.choice(["red", "green", "blue"], ROWS_PER_MONTH)
    size = rng.uniform(0, 10, ROWS_PER_MONTH)
    value = size + np.where(color == "red", 4.0, 0.0) + rng.normal(size=ROWS_PER_MONTH) + shift
    outcome = 50 + value if spec.task == "regression" else np.array(CLASSES)[np.digitize(value, [4.0, 8.0])]
    return pa.table(
        {
            "id": [f"{partition}-{number}" for number in range(ROWS_PER_MONTH)],
            "moment": pa.array(
                [first + timedelta(hours=1.5 * n) for n in range(ROWS_PER_MONTH)], pa.timestamp("us", "UTC")
            ),
            "color": pa.array(color.tolist(), pa.string()),
            "size": pa.array(size),
            "outcome": pa.array(outcome.tolist()),
        }
    )


def publish(spec: ModelSpec, storage: Storage, partition: str, *, rows: pa.Table | None = None) -> None:
    """Publish a month of things."""
    write_partition(
        uri=storage.table(spec.name, "things"),
        table=things(spec, partition) if rows is None else rows,
        partition=partition,
        storage_options=storage.options,
    )
