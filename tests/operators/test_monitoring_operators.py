"""The operators of `monitor_*`, with a real registry, a real model server and real flights."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped

from include.drift.monitor import TABLE
from include.errors import CorruptArtifactError, NotFoundError, PartitionError, ServiceError
from include.lake.tables import current_version, read_table, table_exists
from include.registry.models import CHAMPION, delete_alias, register_version, set_alias
from include.registry.package import write_package
from include.registry.runs import ensure_run
from include.spec import load_spec
from operators.decide_retrain import DecideRetrainOperator
from operators.hooks.ledger import LedgerHook
from operators.measure_drift import MeasureDriftOperator
from operators.report_drift import ReportDriftOperator
from tests.flights import log_predictions, publish_month, reference_of_month

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from include.lake.storage import Storage
    from tests.running import RunningModelServer

pytestmark = pytest.mark.usefixtures("servers")
MODEL = "flight_delays"
MONTH = "2013-06"
SPEC = load_spec(MODEL)


@pytest.fixture
def servers(
    connections: None, mlflow_url: str, model_server: RunningModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", mlflow_url)
    connection = {"conn_type": "http", "host": "127.0.0.1", "port": model_server.port}
    connection["password"] = model_server.client.admin_token
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_SERVER_DEFAULT", json.dumps(connection))
    delete_alias(mlflow_url, model=MODEL, alias=CHAMPION)


@pytest.fixture
def promote(mlflow_url: str, storage: Storage, tmp_path: Path) -> Callable[..., str]:
    """Return a function that makes a version, trained on March, the champion."""

    def run(*, window: tuple[str, str] = ("2013-01", "2013-03"), **contents: bytes) -> str:
        publish_month(spec=SPEC, storage=storage, partition="2013-03")
        reference = reference_of_month(spec=SPEC, storage=storage, partition="2013-03")
        files = {
            "drift_reference.json": json.dumps(reference).encode(),
            "metrics.json": json.dumps({"validation": {"loss": 0.5}}).encode(),
        }
        key = f"{tmp_path.name}-{window[1]}-{len(contents)}"
        run = ensure_run(mlflow_url, experiment=MODEL, name=key, start_ms=0, tags={"job_key": key})
        source = f"{run.artifact_uri}/package"
        package = write_package(source, model=MODEL, job_key=key, contents=contents or files)
        tags = {"job_key": key, "window_start": window[0], "window_end": window[1], "digest": package.digest}
        version = register_version(mlflow_url, model=MODEL, source=source, run_id=run.run_id, tags=tags)
        set_alias(mlflow_url, model=MODEL, alias=CHAMPION, version=version.version)
        return version.version

    return run


def serve(storage: Storage, *, version: str, partition: str = MONTH, **others: Any) -> None:
    publish_month(spec=SPEC, storage=storage, partition=partition)
    log_predictions(spec=SPEC, storage=storage, partition=partition, version=version, **others)


def measure(**others: Any) -> dict[str, Any]:
    return MeasureDriftOperator(task_id="measure", model=MODEL, partition=MONTH, **others).execute({})


def decide(*, partition: str = MONTH, run_id: str = "r1", **others: Any) -> dict[str, Any]:
    operator = DecideRetrainOperator(task_id="decide", model=MODEL, partition=partition, **others)
    return operator.execute({"run_id": run_id})


def decisions() -> list[Any]:
    return LedgerHook().get_conn().entries(MODEL, "retrain_decision")


def publish_window(storage: Storage, *partitions: str) -> None:
    for partition in partitions:
        publish_month(spec=SPEC, storage=storage, partition=partition, num_flights=20)


class TestMeasureDrift:
    def test_a_month_is_measured_and_published(self, storage: Storage, promote: Callable[..., str]) -> None:
        version = promote()
        serve(storage, version=version)
        found = measure()
        assert found["champion"] == version
        assert found["versions"][version]["num_predictions"] == 1500
        assert found["versions"][version]["loss"] < found["versions"][version]["baseline_loss"]
        assert "temp" in found["drifted_inputs"]
        assert "distance" not in found["drifted_inputs"]
        json.dumps(found, allow_nan=False)
        uri = storage.table(MODEL, TABLE)
        assert read_table(uri=uri, storage_options={}).num_rows == 1
        table_version = current_version(uri=uri, storage_options={})
        assert measure() == found
        assert current_version(uri=uri, storage_options={}) == table_version

    def test_no_champion_and_no_predictions_measure_nothing(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish_window(storage, MONTH)
        # The first months come before anything serves: the server may not even run.
        monkeypatch.setenv("AIRFLOW_CONN_MODEL_SERVER_DEFAULT", "http://127.0.0.1:9")
        assert measure() == {
            "partition": MONTH,
            "champion": None,
            "versions": {},
            "prediction_psi": None,
            "label_psi": None,
            "drifted_inputs": [],
            "expected_gain": None,
        }
        assert not table_exists(uri=storage.table(MODEL, TABLE), storage_options={})

    def test_bad_input_is_named(
        self, storage: Storage, promote: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(PartitionError, match="needs a partition key"):
            MeasureDriftOperator(task_id="measure", model=MODEL, partition="None").execute({})
        with pytest.raises(NotFoundError, match="flights"):
            measure()
        promote(card=b"")
        with pytest.raises(CorruptArtifactError, match=r"must hold drift_reference\.json; got card"):
            measure()
        promote()
        monkeypatch.setenv("AIRFLOW_CONN_MODEL_SERVER_DEFAULT", "http://127.0.0.1:9")
        with pytest.raises(ServiceError, match="model server"):
            measure()
        monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", "http://127.0.0.1:9")
        with pytest.raises(ServiceError, match="MLflow"):
            measure()
        assert not table_exists(uri=storage.table(MODEL, TABLE), storage_options={})


class TestDecideRetrain:
    def test_the_first_window_bootstraps_and_months_before_do_not(self, storage: Storage) -> None:
        publish_window(storage, "2013-01", "2013-02")
        assert decide(partition="2013-02")["verdict"] == "keep"
        publish_window(storage, "2013-03")
        found = decide(partition="2013-03")
        assert (found["verdict"], found["champion"]) == ("bootstrap", None)
        assert found["window"] == ["2013-01", "2013-02", "2013-03"]
        assert [entry.subject for entry in decisions()] == ["2013-02", "2013-03"]

    def test_a_drifted_month_retrains_and_the_evidence_is_kept(
        self, storage: Storage, promote: Callable[..., str]
    ) -> None:
        version = promote()
        publish_window(storage, "2013-04", "2013-05")
        serve(storage, version=version, probability=0.12)
        found = decide()
        assert found["verdict"] == "retrain"
        assert found["champion"] == version
        (entry,) = decisions()
        assert entry.seq == found["ledger_seq"]
        assert entry.actor == "monitor_flight_delays:r1"
        assert entry.evidence["performance"]["num_labelled"] > 1000
        assert entry.evidence["expected_gain"]["mean"] > 0.01
        assert json.dumps(found)

    def test_a_retry_finds_the_decision_unmeasured_and_a_new_run_decides_anew(
        self, storage: Storage, promote: Callable[..., str]
    ) -> None:
        version = promote()
        publish_window(storage, "2013-04", "2013-05")
        serve(storage, version=version, probability=0.12)
        first = decide()
        log_predictions(spec=SPEC, storage=storage, partition=MONTH, version="999", logged_at_us=9_000_000)
        assert decide() == first
        again = decide(run_id="r2")
        assert again["verdict"] == "inconclusive"
        assert again["reasons"] == [f"champion {version} made no prediction in {MONTH}"]
        assert len(decisions()) == 2

    def test_a_cleared_run_does_not_train_again_what_serves_by_now(
        self, storage: Storage, promote: Callable[..., str]
    ) -> None:
        publish_window(storage, "2013-04", "2013-05")
        serve(storage, version=promote(), probability=0.12)
        assert decide()["verdict"] == "retrain"
        promote(window=("2013-04", "2013-06"))
        assert decide()["verdict"] == "keep"
        assert [entry.evidence["verdict"] for entry in decisions()] == ["retrain"]

    def test_no_predictions_are_inconclusive(self, storage: Storage, promote: Callable[..., str]) -> None:
        promote()
        publish_window(storage, MONTH)
        assert decide()["verdict"] == "inconclusive"

    def test_tasks_that_the_verdict_does_not_call_for_are_skipped(
        self, storage: Storage, promote: Callable[..., str]
    ) -> None:
        promote()
        publish_window(storage, MONTH)
        pushed: dict[str, Any] = {}
        with DAG(dag_id="some", schedule=None) as dag:
            operator = DecideRetrainOperator(
                task_id="decide", model=MODEL, partition=MONTH, follow={"inconclusive": ["close"]}
            )
            operator >> [EmptyOperator(task_id=name) for name in ("train", "report", "close")]
        task = SimpleNamespace(
            task=dag.get_task("decide"), map_index=-1, xcom_push=lambda key, value: pushed.update({key: value})
        )
        with pytest.raises(DownstreamTasksSkipped) as skipped:
            operator.execute({"run_id": "r1", "ti": task})
        assert sorted(skipped.value.tasks) == [("report", -1), ("train", -1)]
        assert pushed["return_value"]["verdict"] == "inconclusive"


class TestReportDrift:
    def test_the_month_is_reported(self, storage: Storage, promote: Callable[..., str]) -> None:
        version = promote(window=("2013-03", "2013-03"))
        serve(storage, version=version)
        found = ReportDriftOperator(task_id="report", model=MODEL, version=version, partition=MONTH).execute({})
        assert found["uri"] == f"{storage.report(MODEL, MONTH)}/drift.html"
        assert found["num_rows"] > 1000

    def test_without_a_version_there_is_nothing_to_compare_with(self) -> None:
        with pytest.raises(AirflowSkipException, match="no version to compare 2013-06 with"):
            ReportDriftOperator(task_id="report", model=MODEL, version="", partition=MONTH).execute({})

    def test_an_unknown_version_is_named(self, promote: Callable[..., str]) -> None:
        promote()
        with pytest.raises(NotFoundError):
            ReportDriftOperator(task_id="report", model=MODEL, version="98765", partition=MONTH).execute({})


@pytest.mark.parametrize("kind", [MeasureDriftOperator, DecideRetrainOperator])
def test_the_partition_is_templated(kind: type[MeasureDriftOperator]) -> None:
    operator = kind(task_id="decide", model=MODEL)
    operator.render_template_fields({"dag_run": SimpleNamespace(partition_key="2013-05")})
    assert operator.partition == "2013-05"
