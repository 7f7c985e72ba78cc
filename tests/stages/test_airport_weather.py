"""`airport_weather` through every stage by its operators, on real days, with a real registry and a real model server.

It is what `flight_delays` is not: partitions are days, the label is a number from a row of the next day, and there are
no store features.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction

from include import partitions
from include.demo.weather import MODEL, day_files, day_requests, land_day
from include.errors import DataQualityError
from include.features.examples import load_examples
from include.lake.csv_reader import read_csv
from include.lake.landing import land_files
from include.lake.tables import read_table, write_partition
from include.spec import load_spec
from include.training.commit import VARIABLE
from operators.build_features import BuildFeaturesOperator
from operators.build_snapshot import BuildSnapshotOperator
from operators.check_parity import CheckParityOperator
from operators.compress_model import CompressModelOperator
from operators.decide_retrain import DecideRetrainOperator
from operators.deploy_model import DeployModelOperator
from operators.evaluate_model import EvaluateModelOperator
from operators.ingest_partition import IngestPartitionOperator
from operators.materialize_features import MaterializeFeaturesOperator
from operators.promote_model import PromoteModelOperator
from operators.register_model import RegisterModelOperator
from operators.score_partition import ScorePartitionOperator
from operators.shift_traffic import ShiftTrafficOperator
from operators.train_model import TrainModelOperator
from operators.validate_partition import ValidatePartitionOperator
from sensors.canary_settled import CanarySettledSensor
from sensors.partition_landed import PartitionLandedSensor

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from include.lake.storage import Storage
    from include.serving.client import ModelServerClient
    from tests.running import RolloutWorld

SPEC = load_spec(MODEL)
DAGS = Path(__file__).parents[2] / "dags"
OUTLIER_DAY = "2013-02-12"
"""EWR reports a wind of 1,048 miles per hour at 3 a.m."""
WINDOW = partitions.window(OUTLIER_DAY, SPEC.training.window_partitions)
SERVED = partitions.between("2013-02-13", "2013-02-26")
FAST = json.dumps({"max_epochs": 15, "patience_epochs": 15})
SLOWER = json.dumps({"max_epochs": 20, "patience_epochs": 20})


@pytest.fixture
def storage(rollout_world: RolloutWorld, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """The model server's own lake, so that what it logs lies beside the tables."""
    storage = rollout_world.server.storage
    lake = {"conn_type": "fs", "extra": {"path": storage.root}}
    monkeypatch.setenv("AIRFLOW_CONN_TRADEWIND_LAKE", json.dumps(lake))
    monkeypatch.setenv(VARIABLE, "commit of the tests")
    return storage


@pytest.fixture
def client(rollout_world: RolloutWorld) -> ModelServerClient:
    return rollout_world.server.client


def run(operator: type[BaseOperator], *, day: str | None = OUTLIER_DAY, run_id: str = "r", **how: Any) -> Any:
    given = how if day is None else {"partition": day, **how}
    context: Any = {
        "run_id": run_id,
        "dag_run": SimpleNamespace(dag_id=f"deploy_{MODEL}", run_id=run_id, triggering_user_name=None),
        "outlet_events": defaultdict(lambda: SimpleNamespace(extra=None)),
    }
    return operator(task_id="t", model=MODEL, **given).execute(context)


def publish(storage: Storage, *days: str) -> None:
    """Publish days without their expectations, which cost a second each."""
    table = SPEC.source.tables["weather"]
    for day in days:
        rows = read_csv(day_files(day)["weather.csv"], file="weather.csv", table=table)
        uri = storage.table(MODEL, "weather")
        write_partition(uri=uri, table=rows, partition=day, storage_options=storage.options)


def land_to_features(storage: Storage, day: str) -> tuple[dict[str, Any], dict[str, Any]]:
    land_day(storage=storage, partition=day)
    run(PartitionLandedSensor, day=day)
    run(IngestPartitionOperator, day=day)
    published = run(ValidatePartitionOperator, day=day)
    for operator in (BuildFeaturesOperator, MaterializeFeaturesOperator):
        run(operator, day=day)
    return published, run(CheckParityOperator, day=day)


def train_to_challenger(overrides: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    snapshot = run(BuildSnapshotOperator)
    job_uri = run(TrainModelOperator, day=None, snapshot=snapshot, overrides=overrides)["job_uri"]
    evaluation = run(EvaluateModelOperator, day=None, job_uri=job_uri)
    package = run(CompressModelOperator, day=None, evaluation=evaluation)
    return snapshot, evaluation, run(RegisterModelOperator, day=None, package=package)


def ask(client: ModelServerClient, *days: str) -> list[dict[str, Any]]:
    answers = []
    for day in days:
        for request_id, columns in day_requests(day).items():
            answers.append(client.infer(model=MODEL, columns=columns, request_id=request_id, sticky_key=request_id))
    return answers


def deploy_beside(client: ModelServerClient, version: str) -> None:
    deployed = run(DeployModelOperator, run_id="second")
    assert (deployed["version"], deployed["is_bootstrap"]) == (version, False)
    ask(client, OUTLIER_DAY)
    settle(version, stage="shadow")
    for share_pct in SPEC.rollout.steps_pct:
        run(ShiftTrafficOperator, day=None, run_id="second", version=version, share_pct=share_pct)
        ask(client, *SERVED[:6])
        settle(version, share_pct=share_pct)
    promoted = run(PromoteModelOperator, day=None, run_id="second", version=version)
    assert (promoted["outcome"], promoted["version"]) == ("promote", version)


def settle(version: str, **how: Any) -> None:
    deadline = time.monotonic() + 10
    while True:  # a shadow scores after the answer
        try:
            found = run(CanarySettledSensor, day=None, run_id="second", version=version, inline_wait_s=2, **how)
        except Exception as error:
            if type(error).__name__ != "TaskDeferred" or time.monotonic() > deadline:
                raise
        else:
            assert found["verdict"] == "pass"
            return


def test_a_day_goes_through_every_stage(storage: Storage, client: ModelServerClient) -> None:
    publish(storage, *WINDOW[:-1])
    published, features = land_to_features(storage, OUTLIER_DAY)
    assert (published["num_quarantined"], published["tables"]["weather"]["num_rows"]) == (1, 71)
    assert features["versions"].keys() == {"weather"}
    assert (features["num_values"], features["num_entities"], features["available_at"]) == (0, 0, None)
    assert not Path(storage.feast(), "registry.db").exists()  # no store features: Feast is not even asked

    decision = run(DecideRetrainOperator)
    assert (decision["verdict"], decision["window"]) == ("bootstrap", list(WINDOW))
    snapshot, evaluation, first = train_to_challenger(FAST)
    assert snapshot["partitions"] == list(WINDOW)
    assert evaluation["verdict"] == "pass"
    assert evaluation["loss"]["version"] < evaluation["loss"]["baseline"] - SPEC.gates.min_loss_gain_vs_baseline
    assert run(DeployModelOperator)["is_bootstrap"] is True
    run(PromoteModelOperator, day=None, version=first["version"])
    assert {answer["model_version"] for answer in ask(client, OUTLIER_DAY)} == {first["version"]}

    _, _, second = train_to_challenger(SLOWER)
    deploy_beside(client, second["version"])

    answers = ask(client, *SERVED)
    assert {answer["model_version"] for answer in answers} == {second["version"]}
    publish(storage, *SERVED)
    land_to_features(storage, "2013-02-27")
    decision = run(DecideRetrainOperator, day="2013-02-27", run_id="later")
    assert decision["champion"] == second["version"]
    assert decision["verdict"] in ("keep", "retrain")  # and not inconclusive: all labels are there
    rows = read_table(uri=storage.table(MODEL, "performance"), storage_options={}, partitions=("2013-02-27",))
    (measured,) = (row for row in rows.to_pylist() if row["model_version"] == second["version"])
    assert measured["num_predictions"] == sum(len(c["temp"]) for day in SERVED for c in day_requests(day).values())
    assert measured["label_coverage_frac"] > 0.97
    assert measured["loss"] < measured["baseline_loss"] - 1

    scored = run(ScorePartitionOperator, day="2013-02-20")
    assert (scored["model_version"], scored["num_rows"]) == (second["version"], 71)  # EWR left out an hour
    scores = read_table(uri=storage.table(MODEL, "scores"), storage_options={}, partitions=("2013-02-20",))
    assert np.isfinite(scores["prediction"].to_numpy()).all()


def test_the_last_hours_of_a_day_get_their_label_with_the_next_day(storage: Storage) -> None:
    publish(storage, "2013-03-09")

    def labels(**how: Any) -> list[float | None]:
        examples = load_examples(spec=SPEC, storage=storage, partitions=("2013-03-09",), **how)
        assert set(examples["partition"].to_pylist()) == {"2013-03-09"}
        return [row["label"] for row in examples.to_pylist() if row["origin"] == "JFK"]

    assert [label is not None for label in labels()] == [True] * 18 + [False] * 6
    publish(storage, "2013-03-10")  # a day of 23 hours
    complete = labels()
    assert None not in complete
    assert labels(later_labels=False)[:18] == complete[:18]
    assert labels(later_labels=False)[18:] == [None] * 6  # a training set does not depend on what landed since
    jfk = load_examples(spec=SPEC, storage=storage, partitions=("2013-03-09", "2013-03-10")).to_pylist()
    temp = {row["event_at"]: row["temp"] for row in jfk if row["origin"] == "JFK"}
    last = datetime(2013, 3, 10, 4, tzinfo=UTC)
    assert complete[-1] == pytest.approx(temp[last.replace(hour=10)] - temp[last])


def test_rows_of_another_day_are_refused_and_a_day_that_is_not_whole_too(
    storage: Storage,
) -> None:
    day = "2013-11-03"  # 25 hours, one of them never reported
    files = day_files(day)
    header, *lines = files["weather.csv"].splitlines(keepends=True)
    few = {"weather.csv": b"".join([header, *lines[:50]])}
    land_files(storage=storage, model=MODEL, partition=day, marker="_SUCCESS", files=few)
    run(IngestPartitionOperator, day=day)
    with pytest.raises(DataQualityError, match="at least 75% of the day's 25 hours at the three airports"):
        run(ValidatePartitionOperator, day=day)
    land_files(storage=storage, model=MODEL, partition="2013-11-04", marker="_SUCCESS", files=files)
    with pytest.raises(Exception, match="must hold rows of 2013-11-04 alone; got 72 of 72 rows"):
        run(IngestPartitionOperator, day="2013-11-04")


@pytest.mark.parametrize("stage", ["ingest", "materialize", "monitor", "train", "deploy", "score", "rollback"])
def test_its_dags_are_there(stage: str) -> None:
    bag = DagBag(dag_folder=DAGS / f"{stage}.py", bundle_path=DAGS.parent)
    assert bag.import_errors == {}
    assert f"{stage}_{MODEL}" in bag.dags


def test_it_is_ingested_by_days() -> None:
    bag = DagBag(dag_folder=DAGS / "ingest.py", bundle_path=DAGS.parent)
    dag = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags[f"ingest_{MODEL}"]))
    info, keys = None, []
    restriction = TimeRestriction(dag.start_date, dag.end_date, catchup=True)
    while info := dag.timetable.next_dagrun_info_v2(last_dagrun_info=info, restriction=restriction):
        keys.append(info.partition_key)
    assert tuple(keys) == partitions.between("2013-01-01", "2013-12-30")
