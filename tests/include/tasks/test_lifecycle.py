"""A regression and a model of three classes through every stage, on a real trainer, model registry and model server."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import include.models
from include.drift.champion import load_champion
from include.drift.monitor import TABLE, measure_partition
from include.drift.report import write_report
from include.errors import BadInputError, SchemaError
from include.features.examples import load_examples
from include.lake.storage import Storage
from include.lake.tables import read_table
from include.registry.assemble import assemble_package
from include.registry.models import get_version
from include.registry.register import register
from include.retraining.decision import History, Verdict, decide
from include.rollout.decision import decide_stage
from include.rollout.ledger import Ledger
from include.rollout.local import LocalTarget
from include.rollout.stages import Rollout
from include.serving.batch import score_partition
from include.serving.versions import load_version
from include.tasks import task_of
from include.tasks.outputs import to_numpy
from include.training import command
from include.training.commit import VARIABLE
from include.training.evaluate import evaluate
from include.training.exit_codes import ExitCode
from include.training.job import make_job
from include.training.snapshot import build_snapshot
from tests.running import RunningModelServer
from tests.snapshots import COMMIT
from tests.tiny_tasks import CLASSES, publish, things, write_models

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.registry.models import ModelVersion
    from include.rollout.decision import RolloutState
    from include.spec import ModelSpec
    from include.tasks import Task

WINDOW = ("2013-01", "2013-02", "2013-03")
ROWS_PER_REQUEST = 50


@dataclass(kw_only=True)
class World:
    """One model, its lake, and the servers that it goes through."""

    spec: ModelSpec
    storage: Storage
    server: RunningModelServer
    mlflow_url: str
    ledger: Ledger

    @property
    def task(self) -> Task:
        return task_of(self.spec)

    @property
    def state(self) -> RolloutState:
        return LocalTarget(client=self.server.client).read(model=self.spec.name)

    def train(self, *, seed: int) -> tuple[ModelVersion, dict[str, Any]]:
        """Train, judge, pack and register a version of the window; return it and its package's metrics."""
        snapshot = build_snapshot(spec=self.spec, storage=self.storage, window=WINDOW)
        job = make_job(spec=self.spec, snapshot=snapshot.ref, commit=COMMIT, storage=self.storage, seed=seed)
        assert command.main(["--job", job.uri]) == ExitCode.DONE
        champion = load_champion(tracking_uri=self.mlflow_url, model=self.spec.name, storage=self.storage)
        beside = get_version(self.mlflow_url, model=self.spec.name, version=champion.version) if champion else None
        assert evaluate(job, storage=self.storage, champion=beside).judgement.may_continue
        assembled = assemble_package(job, storage=self.storage)
        version = register(
            self.mlflow_url, package=assembled.package, links={"dag_id": "d", "dag_run_id": "r"}, storage=self.storage
        )
        return version, dict(assembled.metrics)

    def rollout(self, run: str) -> Rollout:
        return Rollout(
            spec=self.spec,
            target=LocalTarget(client=self.server.client),
            ledger=self.ledger,
            tracking_uri=self.mlflow_url,
            actor="tests",
            run_key=run,
        )

    def ask(self, partition: str) -> dict[str, Any]:
        """Ask for a month's predictions, and return them by example."""
        examples = load_examples(spec=self.spec, storage=self.storage, partitions=(partition,))
        answered = {}
        for first in range(0, examples.num_rows, ROWS_PER_REQUEST):
            columns = examples.slice(first, ROWS_PER_REQUEST).select(["example_id", "color", "size"]).to_pydict()
            answer = self.server.client.infer(model=self.spec.name, columns=columns, sticky_key=f"{partition}-{first}")
            (output,) = answer["outputs"]
            assert output["name"] == self.task.output
            values = np.reshape(output["data"], output["shape"])
            answered |= dict(zip(columns["example_id"], values.tolist(), strict=True))
        return answered

    def settle(self, rollout: Rollout, version: str, stage: Any, share_pct: float) -> None:
        """Ask until the stage is decided, and record how."""
        deadline = time.monotonic() + 30
        while True:
            self.ask("2013-03")
            decision = decide_stage(
                self.state, version=version, stage=stage, share_pct=share_pct, rollout=self.spec.rollout
            )
            if decision.is_final:
                break
            assert time.monotonic() < deadline, decision
        rollout.settle(version, decision, stage=stage, share_pct=share_pct)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, ModelSpec]]]:
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(include.models, "__path__", [*include.models.__path__, str(folder)])
        patch.setenv(VARIABLE, COMMIT)
        yield folder, write_models(folder)


@pytest.fixture(scope="module")
def server(models: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningModelServer]:
    folder = tmp_path_factory.mktemp("server")
    running = RunningModelServer(folder=folder, storage=Storage(root=str(folder / "data")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRADEWIND_MODELS", str(models[0]))
        running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module", params=["regression", "multiclass_classification"])
def world(
    request: pytest.FixtureRequest,
    models: tuple[Path, dict[str, ModelSpec]],
    server: RunningModelServer,
    mlflow_url: str,
) -> World:
    """Return a model with one version that serves, trained on the first three months."""
    found = World(
        spec=models[1][request.param],
        storage=server.storage,
        server=server,
        mlflow_url=mlflow_url,
        ledger=Ledger(path=server.folder / f"{request.param}.sqlite"),
    )
    for partition in WINDOW:
        publish(found.spec, found.storage, partition)
    version, _ = found.train(seed=1)
    rollout = found.rollout("run-1")
    assert rollout.deploy(version.version).is_bootstrap
    assert rollout.promote(version.version).kind == "bootstrap"
    return found


def test_a_second_version_becomes_champion_by_shadow_and_canary(world: World) -> None:
    version, metrics = world.train(seed=2)
    assert metrics["validation"]["loss"] < metrics["baseline"]["loss"] - 0.05
    assert metrics["trees"]["loss"] < metrics["baseline"]["loss"]
    assert metrics["champion"]["standard_error"] > 0
    assert set(world.task.metric_names) < set(metrics["validation"])
    assert metrics["compression"]["agreement_frac"] >= 0.9
    rollout = world.rollout("run-2")
    assert rollout.deploy(version.version).golden["num_rows"] == 20
    world.settle(rollout, version.version, "shadow", 0.0)
    rollout.shift(version.version, share_pct=50)
    world.settle(rollout, version.version, "canary", 50)
    promoted = rollout.promote(version.version)
    assert (promoted.kind, world.state.champion) == ("promote", version.version)
    (shadowed,) = [e for e in world.ledger.entries(world.spec.name) if e.kind == "shadow" and "counters" in e.evidence]
    assert shadowed.evidence["counters"]["challenger"]["num_pairs"] > 0


def test_answers_scores_and_the_log_are_the_same_predictions(world: World) -> None:
    publish(world.spec, world.storage, "2013-06")
    answered = world.ask("2013-06")
    world.server.client.flush()
    champion = get_version(world.mlflow_url, model=world.spec.name, version=str(world.state.champion))
    first = score_partition(spec=world.spec, storage=world.storage, partition="2013-06", version=champion)
    again = score_partition(spec=world.spec, storage=world.storage, partition="2013-06", version=champion)
    assert (first.is_new, again.is_new) == (True, False)
    uri = world.storage.table(world.spec.name, "scores")
    scores = read_table(uri=uri, storage_options={}, partitions=("2013-06",))
    scored = dict(
        zip(scores["example_id"].to_pylist(), to_numpy(scores[world.task.output], task=world.task), strict=True)
    )
    assert scored.keys() == answered.keys()
    spread = world.task.unit(to_numpy(scores[world.task.output], task=world.task))
    for example, value in scored.items():
        # int8 takes the scale of its activations from all rows of a request, which are others here.
        assert value == pytest.approx(answered[example], abs=0.02 * spread)


def test_what_is_answered_is_described(world: World) -> None:
    import json
    import urllib.request

    with urllib.request.urlopen(f"{world.server.url}/v2/models/{world.spec.name}", timeout=10) as response:
        (output,) = json.load(response)["outputs"]
    if world.task.classes:
        assert output["shape"] == [-1, 3]
        assert output["parameters"] == {"classes": list(CLASSES)}
    else:
        assert output == {"name": "prediction", "datatype": "FP32", "shape": [-1]}


@pytest.mark.parametrize(
    ("partition", "shift", "verdict"), [("2013-04", 0.0, Verdict.KEEP), ("2013-05", 3.0, Verdict.RETRAIN)]
)
def test_a_month_is_kept_and_one_that_differs_is_retrained(
    world: World, partition: str, shift: float, verdict: Verdict
) -> None:
    publish(world.spec, world.storage, partition, rows=things(world.spec, partition, shift=shift))
    world.ask(partition)
    world.server.client.flush()
    champion = load_champion(tracking_uri=world.mlflow_url, model=world.spec.name, storage=world.storage)
    assert champion is not None
    found = measure_partition(spec=world.spec, storage=world.storage, partition=partition, champion=champion)
    own = found.champion
    assert own is not None
    assert own.num_labelled == own.num_predictions == 450
    assert found.prediction_psi is not None
    assert found.prediction_psi < 0.2
    assert found.label_psi is not None
    assert (found.label_psi > 0.2) == (verdict is Verdict.RETRAIN)
    decision = decide(
        spec=world.spec,
        partition=partition,
        measurement=found,
        champion=champion,
        history=History(published=[f"2013-{month:02d}" for month in range(1, int(partition[-2:]) + 1)]),
    )
    assert decision.verdict is verdict, decision.reasons
    uri = world.storage.table(world.spec.name, TABLE)
    (row,) = read_table(uri=uri, storage_options={}, partitions=(partition,)).to_pylist()
    assert (row["loss_name"], row["loss"]) == (world.task.loss_name, own.loss)
    assert all(
        row[name] is not None for name in (*world.task.metric_names, "baseline_loss", "validation_loss", "label_psi")
    )


def test_a_month_has_a_report_for_people(world: World) -> None:
    publish(world.spec, world.storage, "2013-07", rows=things(world.spec, "2013-07", shift=5.0))
    world.ask("2013-07")
    world.server.client.flush()
    version = get_version(world.mlflow_url, model=world.spec.name, version=str(world.state.champion))
    report = write_report(spec=world.spec, storage=world.storage, partition="2013-07", version=version)
    assert report["num_rows"] == 450
    assert report["drifted_frac"] == pytest.approx(1 / 3)  # the label, and neither of the two inputs


def test_the_card_speaks_of_the_tasks_own_loss(world: World) -> None:
    version = get_version(world.mlflow_url, model=world.spec.name, version="1")
    from include.registry.package import CARD, read_package

    card = read_package(version.source).contents[CARD].decode()
    headings = " | ".join((world.task.loss_name, *world.task.metric_names.values()))
    assert f"|  | {headings} |" in card
    assert f"| color | rows | {headings} |" in card


def test_a_package_of_another_task_is_not_loaded(world: World) -> None:
    version = get_version(world.mlflow_url, model=world.spec.name, version="1")
    other = world.spec.model_copy(update={"task": "binary_classification"})
    with pytest.raises(BadInputError, match=f"must answer 'probability', as the task .* got {world.task.output}"):
        load_version(spec=other, version="1", uri=version.source, digest=version.tags["digest"])


@pytest.mark.parametrize("month", ["2013-02"])
def test_labels_that_are_none_stop_the_training_and_say_so(
    world: World, month: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad: dict[str, tuple[Any, str]] = {
        "regression": (float("nan"), "a finite number as label in each row; got 1 NaN or infinite"),
        "multiclass_classification": ("huge", "one of small, medium, large in each row; got 'huge' too"),
    }
    value, message = bad[world.spec.task]
    storage = Storage(root=str(tmp_path))
    for partition in WINDOW:
        rows = things(world.spec, partition)
        if partition == month:
            outcome = [value, *rows["outcome"].to_pylist()[1:]]
            rows = rows.set_column(4, "outcome", pa.array(outcome))
        publish(world.spec, storage, partition, rows=rows)
    snapshot = build_snapshot(spec=world.spec, storage=storage, window=WINDOW)
    job = make_job(spec=world.spec, snapshot=snapshot.ref, commit=COMMIT, storage=storage)
    assert command.main(["--job", job.uri]) == ExitCode.BAD_DATA
    assert message in capsys.readouterr().out


def test_a_label_that_is_none_is_not_measured(world: World) -> None:
    partition = "2013-08"
    rows = things(world.spec, partition)
    value: Any = float("inf") if world.spec.task == "regression" else "huge"
    outcome = [value, *rows["outcome"].to_pylist()[1:]]
    publish(world.spec, world.storage, partition, rows=rows.set_column(4, "outcome", pa.array(outcome)))
    world.ask(partition)
    world.server.client.flush()
    with pytest.raises(SchemaError, match="Nothing was measured"):
        measure_partition(spec=world.spec, storage=world.storage, partition=partition, champion=None)


def test_a_class_that_the_window_never_saw_stops_the_training(
    models: tuple[Path, dict[str, ModelSpec]], storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = models[1]["multiclass_classification"]
    for partition in WINDOW:
        rows = things(spec, partition)
        publish(spec, storage, partition, rows=rows.filter(pc.not_equal(rows["outcome"], "large")))
    snapshot = build_snapshot(spec=spec, storage=storage, window=WINDOW)
    job = make_job(spec=spec, snapshot=snapshot.ref, commit=COMMIT, storage=storage)
    assert command.main(["--job", job.uri]) == ExitCode.BAD_DATA
    assert "every class of label.classes among its training rows; got no large" in capsys.readouterr().out
