"""The operators of `train_*`, one after the other, on real flights and with a real MLflow server."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from include.errors import BadInputError, PartitionError, ServiceError, TrainingError
from include.features.build import build_features
from include.lake.storage import Storage
from include.registry.models import CHALLENGER, CHAMPION, delete_alias, get_alias, list_versions, set_alias
from include.rollout.ledger import Ledger
from include.spec import load_spec
from include.testing.tasks import run_task
from include.training.commit import VARIABLE
from operators.assets import challenger_asset
from operators.build_snapshot import BuildSnapshotOperator
from operators.compress_model import CompressModelOperator
from operators.evaluate_model import EvaluateModelOperator
from operators.register_model import RegisterModelOperator
from operators.train_model import TrainModelOperator
from tests.flights import publish_month

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = "flight_delays"
SPEC = load_spec(MODEL)
MONTHS = ("2013-01", "2013-02", "2013-03")
NUM_FLIGHTS = 1500
FAST = '{"max_epochs": 6, "patience_epochs": 6, "learning_rate": 0.005, "average_decay": 0.9, "batch_size": 256}'


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(root=str(tmp_path_factory.mktemp("lake")))
    for partition in MONTHS:
        publish_month(spec=SPEC, storage=storage, partition=partition, num_flights=NUM_FLIGHTS)
        build_features(spec=SPEC, storage=storage, partition=partition, published_at=datetime.now(UTC))
    return storage


@pytest.fixture(autouse=True)
def _airflow(lake: Storage, mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", lake.root)  # where a trainer and the tasks that follow it meet
    monkeypatch.setenv(VARIABLE, f"commit of {lake.root}")
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", mlflow_url)
    monkeypatch.setenv("AIRFLOW_CONN_TRADEWIND_LAKE", json.dumps({"conn_type": "fs", "extra": {"path": lake.root}}))
    ledger = {"conn_type": "sqlite", "host": f"{lake.root}/ledger.sqlite"}
    monkeypatch.setenv("AIRFLOW_CONN_TRADEWIND_LEDGER", json.dumps(ledger))


@pytest.fixture
def no_champion(mlflow_url: str) -> Iterator[None]:
    delete_alias(mlflow_url, model=MODEL, alias=CHAMPION)
    yield
    delete_alias(mlflow_url, model=MODEL, alias=CHAMPION)


@pytest.fixture
def snapshot(no_champion: None) -> dict[str, Any]:
    return run_task(BuildSnapshotOperator(task_id="snapshot", model=MODEL, partition="2013-03")).returned()


def train(snapshot: dict[str, Any], overrides: str = FAST) -> dict[str, Any]:
    return run_task(TrainModelOperator(task_id="train", model=MODEL, snapshot=snapshot, overrides=overrides)).returned()


@pytest.fixture
def evaluation(snapshot: dict[str, Any]) -> dict[str, Any]:
    job_uri = train(snapshot)["job_uri"]
    return run_task(EvaluateModelOperator(task_id="evaluate", model=MODEL, job_uri=job_uri)).returned()


@pytest.fixture
def package(evaluation: dict[str, Any]) -> dict[str, Any]:
    return run_task(CompressModelOperator(task_id="compress", model=MODEL, evaluation=evaluation)).returned()


@pytest.fixture
def register(package: dict[str, Any]) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """Return a function that registers the package and returns what came back and the event's extra."""

    def run(**others: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        result = run_task(RegisterModelOperator(task_id="register", model=MODEL, package=package, **others))
        registered = result.returned()
        (event,) = [event for event in result.asset_events if event.name == challenger_asset(MODEL).name]
        return registered, event.extra

    return run


def test_the_snapshot_holds_the_window_at_pinned_versions(snapshot: dict[str, Any]) -> None:
    assert snapshot["partitions"] == list(MONTHS)
    assert 4000 < snapshot["num_rows"] < 3 * NUM_FLIGHTS
    assert snapshot["versions"]["flights"] == 2
    assert set(snapshot["versions"]) >= {f"features_{view}" for view in SPEC.features.store}
    json.dumps(snapshot)


def test_a_shorter_window_is_another_snapshot(snapshot: dict[str, Any]) -> None:
    given = {"task_id": "s", "model": MODEL, "partition": "2013-03"}
    shorter = run_task(BuildSnapshotOperator(**given, window_partitions="1")).returned()
    assert shorter["partitions"] == ["2013-03"]
    assert run_task(BuildSnapshotOperator(**given, window_partitions="")).returned() == snapshot


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        ("2013-02", "only the newest partition"),
        ("2013-04", "must be published before a training"),
        ("None", "needs a partition key; got none"),
        ("2012-12", "outside the source"),
    ],
)
def test_a_partition_that_may_not_train_is_refused(no_champion: None, partition: str, message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        run_task(BuildSnapshotOperator(task_id="s", model=MODEL, partition=partition)).returned()


def test_a_person_may_insist_on_an_older_partition(no_champion: None) -> None:
    found = run_task(BuildSnapshotOperator(task_id="s", model=MODEL, partition="2013-02", force="True")).returned()
    assert found["partitions"] == ["2013-01", "2013-02"]


def test_a_registry_that_is_down_is_a_service_error(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", f"http://127.0.0.1:{free_port}")
    with pytest.raises(ServiceError, match=r"A retry asks again\."):
        run_task(BuildSnapshotOperator(task_id="s", model=MODEL, partition="2013-03")).returned()


def test_a_retry_of_a_finished_training_starts_no_process(
    snapshot: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(snapshot)
    monkeypatch.setattr("include.training.local.TrainerProcess.run", lambda _self: pytest.fail("it trained again"))
    assert train(snapshot) == first
    assert first["window"] == list(MONTHS)
    json.dumps(first)


def test_a_training_is_refused_for_good(snapshot: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="dropout: Input should be less than 1"):
        train(snapshot, '{"dropout": 2}')
    with pytest.raises(BadInputError, match="needs the snapshot that its first task wrote"):
        train({})


def test_a_killed_task_stops_its_trainer(snapshot: dict[str, Any]) -> None:
    overrides = '{"max_epochs": 5000, "patience_epochs": 5000}'
    operator = TrainModelOperator(task_id="train", model=MODEL, snapshot=snapshot, overrides=overrides)
    operator.on_kill()  # before it has begun there is nothing to stop
    seen: list[str] = []

    def hear(line: str) -> None:
        seen.append(line)
        if line.startswith("epoch "):
            operator.on_kill()

    def listen() -> None:
        while operator._trainer is None:
            time.sleep(0.01)
        operator._trainer.say = hear

    listener = threading.Thread(target=listen)
    listener.start()
    with pytest.raises(TrainingError, match="was interrupted"):
        operator.execute({})
    listener.join()
    assert seen[-1].startswith("interrupted")


def test_a_version_beats_the_base_rate_and_its_verdict_is_in_the_ledger(
    lake: Storage, evaluation: dict[str, Any]
) -> None:
    assert (evaluation["verdict"], evaluation["may_continue"], evaluation["reasons"]) == ("pass", True, [])
    losses = evaluation["loss"]
    assert losses["version"] < losses["baseline"] - SPEC.gates.min_loss_gain_vs_baseline
    assert losses["champion"] is None
    assert losses["trees"] > 0
    entries = Ledger(path=f"{lake.root}/ledger.sqlite").entries(MODEL, "gate")
    assert [entry.key for entry in entries] == [f"gate:{MODEL}:{evaluation['job_key']}:run-1"]
    assert entries[0].evidence["version"]["loss"] == losses["version"]
    assert entries[0].actor == "train_flight_delays:run-1"
    assert entries[0].evidence["resources"]["num_starts"] == 1
    assert entries[0].evidence["resources"]["peak_rss_bytes"] > 0


def test_a_version_that_was_stopped_is_neither_packed_nor_registered(evaluation: dict[str, Any]) -> None:
    stopped = evaluation | {"may_continue": False, "reasons": ["log loss 0.7"]}
    with pytest.raises(AirflowSkipException, match=r"was stopped: log loss 0\.7"):
        run_task(CompressModelOperator(task_id="compress", model=MODEL, evaluation=stopped)).returned()


def test_the_package_says_what_serves_and_why(package: dict[str, Any]) -> None:
    assert package["serves"] in {"fp32", "int8"}
    assert bool(package["reasons"]) == (package["serves"] == "fp32")
    for graph in ("fp32", "int8"):
        assert package[graph]["size_bytes"] > 0
        assert set(package[graph]["latency_us"]) == {"1", "32"}
    assert Path(package["package_uri"], "package.json").is_file()
    json.dumps(package)


def test_one_training_is_one_version_however_often_it_is_registered(
    mlflow_url: str, register: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    before = len(list_versions(mlflow_url, model=MODEL))
    registered, extra = register()
    assert extra == registered
    assert register() == (registered, extra)
    assert len(list_versions(mlflow_url, model=MODEL)) <= before + 1
    challenger = get_alias(mlflow_url, model=MODEL, alias=CHALLENGER)
    assert challenger is not None
    assert (challenger.version, challenger.source) == (registered["version"], registered["uri"])
    assert challenger.tags["dag_run_id"] == "run-1"
    assert registered["window"] == ["2013-01", "2013-03"]


def test_the_champion_is_not_announced_again_and_keeps_older_ones_out(
    mlflow_url: str, lake: Storage, register: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    registered, _ = register()
    set_alias(mlflow_url, model=MODEL, alias=CHAMPION, version=registered["version"])
    with pytest.raises(AirflowSkipException, match="is the champion already"):
        register()
    older = run_task(BuildSnapshotOperator(task_id="s", model=MODEL, partition="2013-02", force=True)).returned()
    job_uri = train(older)["job_uri"]
    evaluation = run_task(
        EvaluateModelOperator(task_id="evaluate", model=MODEL, job_uri=job_uri), run_id="run-2"
    ).returned()
    assert evaluation["loss"]["champion"] is not None
    passed = evaluation | {"may_continue": True}
    package = run_task(CompressModelOperator(task_id="compress", model=MODEL, evaluation=passed)).returned()
    given = {"task_id": "register", "model": MODEL, "package": package}
    with pytest.raises(PartitionError, match="whose window ends 2013-03; got 2013-02"):
        run_task(RegisterModelOperator(**given)).returned()
    assert run_task(RegisterModelOperator(**given, force="True")).returned()["window"] == ["2013-01", "2013-02"]
