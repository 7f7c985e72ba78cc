from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from include.errors import TrainingError
from include.lake.storage import Storage
from include.registry.assemble import assemble_package
from include.registry.models import ModelVersion
from include.registry.package import METRICS, SERVED_GRAPH, read_package
from include.spec import GatesSpec
from include.tasks import task_of
from include.training import command
from include.training.evaluate import EVALUATION_FILE, evaluate, measure_slices
from include.training.exit_codes import ExitCode
from tests.snapshots import SPEC, small_job

if TYPE_CHECKING:
    from include.training.job import Job


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(root=str(tmp_path_factory.mktemp("lake")))


@pytest.fixture
def job(lake: Storage) -> Job:
    return trained(lake)


def trained(storage: Storage, gates: GatesSpec | None = None) -> Job:
    """Return a finished job; one that is complete is not trained again."""
    gates = gates or GatesSpec(min_validation_rows=400)
    job = small_job(storage, spec=SPEC.model_copy(update={"gates": gates}))
    assert command.main(["--job", job.uri]) == ExitCode.DONE
    return job


def as_champion(job: Job, storage: Storage) -> ModelVersion:
    evaluate(job, storage=storage, champion=None)
    package = assemble_package(job, storage=storage).package
    return ModelVersion(name=job.spec.name, version="7", source=package.uri, run_id="r")


def test_a_version_is_measured_beside_the_base_rate_and_trees(job: Job, lake: Storage) -> None:
    found = evaluate(job, storage=lake, champion=None)
    report = found.report
    assert found.judgement.verdict == "pass"
    assert report["held_out"]["num_rows"] == report["version"]["num_rows"] == 450
    assert report["version"]["loss"] < report["baseline"]["loss"] - 0.05
    assert report["trees"]["loss"] < report["baseline"]["loss"]
    assert report["baseline"]["auc"] == 0.5
    assert report["champion"] is None
    document = json.loads(Path(job.output_uri, EVALUATION_FILE).read_text())
    assert document["judgement"]["verdict"] == "pass"
    assert evaluate(job, storage=lake, champion=None) == found


def test_slices_say_how_many_rows_they_have(job: Job, lake: Storage) -> None:
    slices = evaluate(job, storage=lake, champion=None).report["slices"]
    assert set(slices) == set(SPEC.slices)
    for values in slices.values():
        counts = [metrics["num_rows"] for metrics in values.values()]
        assert sum(counts) == 450
        assert counts == sorted(counts, reverse=True)


def test_a_slice_of_one_outcome_has_no_auc() -> None:
    import pyarrow as pa

    table = pa.table({"origin": ["EWR", "EWR", None]})
    arrays = {"label_B": np.array([0.0, 0.0, 1.0]), "predicted_BK": np.array([0.1, 0.2, 0.9])}
    found = measure_slices(table, names=("origin",), task=task_of(SPEC), **arrays)["origin"]
    assert found["EWR"]["num_rows"] == 2
    assert found["EWR"]["auc"] is None
    assert list(found) == ["EWR", "None"]


def test_the_champion_is_measured_on_the_same_rows(job: Job, lake: Storage) -> None:
    champion = as_champion(job, lake)
    found = evaluate(job, storage=lake, champion=champion)
    assert found.report["champion"]["loss"] == found.report["version"]["loss"]
    assert found.report["champion"]["loss_difference"] == 0
    assert found.judgement.verdict == "pass"  # equal is allowed by an increase of 0


def test_a_champion_that_cannot_be_read_is_inconclusive(job: Job, lake: Storage) -> None:
    champion = as_champion(job, lake)
    gone = ModelVersion(name=champion.name, version="7", source=f"{champion.source}-gone", run_id="r")
    found = evaluate(job, storage=lake, champion=gone)
    assert (found.judgement.verdict, found.judgement.may_continue) == ("inconclusive", False)
    assert "champion 7 could not be measured" in found.judgement.reasons[0]
    Path(champion.source, SERVED_GRAPH).write_bytes(b"damaged")
    assert evaluate(job, storage=lake, champion=champion).judgement.verdict == "inconclusive"
    assemble_package(job, storage=lake)
    assert evaluate(job, storage=lake, champion=champion).judgement.verdict == "pass"


def test_a_gain_that_is_too_small_fails(lake: Storage) -> None:
    gates = GatesSpec(min_validation_rows=400, min_loss_gain_vs_baseline=0.6)
    found = evaluate(trained(lake, gates), storage=lake, champion=None)
    assert (found.judgement.verdict, found.judgement.may_continue) == ("fail", False)


def test_a_job_that_is_not_finished_is_not_evaluated(storage: Storage) -> None:
    with pytest.raises(TrainingError, match=r"must have a whole result\.json before it is evaluated"):
        evaluate(small_job(storage), storage=storage, champion=None)


def test_a_version_that_was_not_evaluated_is_not_packed(storage: Storage) -> None:
    with pytest.raises(TrainingError, match="must be evaluated first"):
        assemble_package(trained(storage), storage=storage)
    with pytest.raises(TrainingError, match="before it is packed"):
        assemble_package(small_job(storage, max_epochs=3, patience_epochs=3), storage=storage)


def test_a_package_holds_what_serving_monitoring_and_people_need(job: Job, lake: Storage) -> None:
    package = read_package(as_champion(job, lake).source)
    metrics, lock = package.json(METRICS), package.json("lock.json")
    assert metrics["validation"]["num_rows"] == 450
    assert lock["commit"] == job.commit
    assert lock["snapshot"]["versions"] == {"flights": 3}
    assert {"torch", "numpy", "python"} <= set(lock["packages"])
    assert package.json("drift_reference.json")["num_rows"] == 3000
    card = package.contents["card.md"].decode()
    for heading in ("# flight_delays", "## How good", "## Gates", "## Compression", "## By slice"):
        assert heading in card
    served = {"int8": "model.int8.onnx", "fp32": "model.fp32.onnx"}[metrics["compression"]["serves"]]
    assert package.contents[SERVED_GRAPH] == package.contents[served]


def test_golden_rows_are_scored_alike_by_the_model_server(job: Job, lake: Storage) -> None:
    from include.serving.versions import load_version

    package = read_package(as_champion(job, lake).source)
    loaded = load_version(spec=SPEC, version="7", uri=package.uri, digest=package.digest)
    golden = loaded.check_golden()
    assert golden["passed"]
    assert golden["num_rows"] == 20
    assert any(value is None for values in package.json("golden.json")["columns"].values() for value in values)


def test_packing_twice_keeps_the_package(job: Job, lake: Storage) -> None:
    evaluate(job, storage=lake, champion=None)
    first = assemble_package(job, storage=lake)
    assert assemble_package(job, storage=lake).package.digest == first.package.digest
