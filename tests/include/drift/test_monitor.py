from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from include.drift.champion import describe
from include.drift.monitor import TABLE, Measurement, measure_partition
from include.lake.tables import read_table, table_exists, write_partition
from include.registry.models import ModelVersion
from include.registry.package import DRIFT_REFERENCE, METRICS, write_package
from include.training.metrics import auc, expected_calibration_error, log_losses

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from include.drift.champion import Champion
    from include.lake.storage import Storage
    from include.spec import ModelSpec

MONTH = "2013-06"
FORMER = {
    "schema_version": 1,
    "num_rows": 2,
    "label_frac": 0.5,
    "numeric": {},
    "categorical": {},
    "scores": {"edges": [], "counts": [2], "num_missing": 0},
}
"""A drift reference of release 0.1.0."""


def published_rows(spec: ModelSpec, storage: Storage) -> list[dict[str, Any]]:
    uri = storage.table(spec.name, TABLE)
    return sorted(
        read_table(uri=uri, storage_options=storage.options).to_pylist(), key=lambda row: row["model_version"]
    )


def test_a_month_is_measured_against_the_champion(
    spec: ModelSpec, storage: Storage, champion: Champion, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH)
    examples = served(partition=MONTH)
    found = measure_partition(spec=spec, storage=storage, partition=MONTH, champion=champion)
    own = found.champion
    assert own is not None
    known = examples.filter(pc.is_valid(examples["label"]))
    label_B = np.array(known["label"].to_pylist(), dtype=float)
    score_B = (0.05 + known["dep_minute_of_day"].to_numpy() / 3600).astype(np.float32)
    assert (own.num_predictions, own.num_labelled) == (1500, known.num_rows)
    assert own.metrics["positive_frac"] == pytest.approx(label_B.mean())
    assert own.loss == pytest.approx(log_losses(label_B=label_B, probability_B=score_B).mean())
    assert own.metrics["auc"] == pytest.approx(auc(label_B=label_B, probability_B=score_B))
    ece = expected_calibration_error(label_B=label_B, probability_B=score_B.astype(float))
    assert own.metrics["ece"] == pytest.approx(ece)
    constant_B = np.full(len(label_B), champion.reference.baseline)
    assert own.baseline_loss == pytest.approx(log_losses(label_B=label_B, probability_B=constant_B).mean())
    assert found.prediction_psi == pytest.approx(0, abs=0.05)
    inputs = {item.name: item for item in found.inputs}
    assert inputs["temp"].psi is not None
    assert inputs["temp"].psi > 2
    assert not inputs["distance"].exceeds(spec.drift)
    assert found.gain is not None
    assert found.gain.mean > 0


def test_the_row_of_a_version_is_published_once(
    spec: ModelSpec, storage: Storage, champion: Champion, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH)
    served(partition=MONTH)
    served(partition=MONTH, version="2", role="shadow", probability=0.3, rows=slice(0, 600))
    found = measure_partition(spec=spec, storage=storage, partition=MONTH, champion=champion)
    own, shadow = published_rows(spec, storage)
    assert (own["partition"], own["model_version"], own["is_champion"]) == (MONTH, "1", True)
    assert own["loss"] == found.versions[0].loss
    assert own["validation_loss"] == 0.5
    assert own["expected_gain"] == found.gain.mean if found.gain else None
    assert own["max_input_psi"] == max(
        item["psi"] for item in json.loads(own["inputs_json"]) if item["psi"] is not None
    )
    assert (shadow["model_version"], shadow["is_champion"], shadow["num_shadow"]) == ("2", False, 600)
    assert shadow["loss"] is not None
    assert shadow["inputs_json"] is None
    uri = storage.table(spec.name, TABLE)
    version = read_version(uri, storage)
    assert measure_partition(spec=spec, storage=storage, partition=MONTH, champion=champion) == found
    assert read_version(uri, storage) == version


def read_version(uri: str, storage: Storage) -> int:
    from include.lake.tables import current_version

    return current_version(uri=uri, storage_options=storage.options)


def test_without_predictions_nothing_is_measured_or_written(
    spec: ModelSpec, storage: Storage, champion: Champion, publish: Callable[..., None]
) -> None:
    publish(partition=MONTH)
    found = measure_partition(spec=spec, storage=storage, partition=MONTH, champion=champion)
    assert found.champion is None
    assert (found.versions, found.inputs, found.prediction_psi, found.gain) == ((), (), None, None)
    assert not table_exists(uri=storage.table(spec.name, TABLE), storage_options=storage.options)


def test_without_a_champion_versions_are_measured_alone(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH)
    served(partition=MONTH)
    found = measure_partition(spec=spec, storage=storage, partition=MONTH, champion=None)
    assert found.champion is None
    assert found.versions[0].baseline_loss is None
    assert published_rows(spec, storage)[0]["is_champion"] is False


def test_a_champion_that_answered_nothing_is_no_evidence(
    spec: ModelSpec, storage: Storage, champion: Champion, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH)
    served(partition=MONTH, version="7")
    found = measure_partition(spec=spec, storage=storage, partition=MONTH, champion=replace(champion, version="8"))
    assert found.champion is None
    assert found.prediction_psi is None
    assert found.gain is None
    assert found.gain_unknown is not None
    assert len(found.inputs) == len(champion.reference.numeric) + len(champion.reference.categorical)


def test_labels_that_have_not_arrived_leave_drift_only(
    spec: ModelSpec, storage: Storage, champion: Champion, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH)
    examples = served(partition=MONTH)
    cancelled = [row for row, label in enumerate(examples["label"].to_pylist()) if label is None]
    served(partition=MONTH, version="9", rows=slice(cancelled[0], cancelled[0] + 1), logged_at_us=9_000_000)
    found = measure_partition(spec=spec, storage=storage, partition=MONTH, champion=replace(champion, version="9"))
    own = found.champion
    assert own is not None
    assert (own.num_predictions, own.num_labelled, own.loss, own.metrics) == (1, 0, None, {})
    assert own.label_coverage_frac == 0
    assert found.prediction_psi is not None
    assert found.gain is None
    assert isinstance(found, Measurement)


def test_columns_that_an_older_release_wrote_stay(
    spec: ModelSpec, storage: Storage, champion: Champion, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    former = pa.table({"model_version": ["1"], "log_loss": [0.5], "base_rate_log_loss": [0.6]})
    uri = storage.table(spec.name, TABLE)
    write_partition(uri=uri, table=former, partition="2013-05", storage_options=storage.options)
    publish(partition=MONTH, num_flights=50)
    served(partition=MONTH)
    for _ in range(2):
        measure_partition(spec=spec, storage=storage, partition=MONTH, champion=champion)
    old, new = sorted(published_rows(spec, storage), key=lambda row: row["partition"])
    assert (old["log_loss"], old["loss"]) == (0.5, None)
    assert (new["log_loss"], new["loss"] is None) == (None, False)


def test_what_an_older_release_logged_is_measured(
    spec: ModelSpec, storage: Storage, champion: Champion, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    """Logs of 0.1.0 have the column `probability`; packages of 0.1.0 call their loss `log_loss`."""
    publish(partition=MONTH, num_flights=50)
    served(partition=MONTH)
    found = measure_partition(spec=spec, storage=storage, partition=MONTH, champion=champion)
    assert found.champion is not None
    assert found.champion.num_predictions == 50
    contents = {METRICS: b'{"validation": {"log_loss": 0.25}}', DRIFT_REFERENCE: json.dumps(FORMER).encode()}
    package = write_package(storage.root + "/package", model=spec.name, job_key="j", contents=contents)
    version = ModelVersion(name=spec.name, version="1", source=package.uri, run_id="r")
    assert describe(version, storage=storage).validation_loss == 0.25
