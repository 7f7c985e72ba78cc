"""The training command in this process: exit codes, determinism, resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from include.compression.graphs import open_graph, score
from include.lake.storage import Storage
from include.training import command
from include.training.exit_codes import ExitCode
from include.training.metrics import log_losses
from include.training.result import GRAPH_FILE, RESULT_FILE, Result, read_result
from include.training.rows import load_rows
from include.training.stop import Stop
from tests.snapshots import small_job, small_table, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.training.job import Job


def run(job: Job) -> int:
    return command.main(["--job", job.uri])


def result_of(job: Job, storage: Storage) -> Result:
    result = read_result(job, storage=storage)
    assert result is not None
    return result


class StopAfter:
    """Asks the trainer to stop when it has looked `num_steps` times."""

    def __init__(self, num_steps: int) -> None:
        self.left = num_steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that makes the next runs stop after so many batches; None lets them run."""

    def change(num_steps: int | None) -> None:
        stop = StopAfter(num_steps) if num_steps is not None else (lambda: False)
        monkeypatch.setattr(Stop, "__call__", lambda _self: stop())

    return change


def test_a_job_leaves_a_graph_that_beats_the_base_rate(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    job = small_job(storage)
    assert run(job) == ExitCode.DONE
    result, rows = result_of(job, storage), load_rows(job, storage=storage)
    graph = open_graph(Path(job.output_uri, GRAPH_FILE).read_bytes())
    held_out = slice(rows.num_train, None)
    probability_B = score(graph, rows.categorical_BC[held_out], rows.numeric_BN[held_out])
    label_B = rows.label_B[held_out]
    found = log_losses(label_B=label_B, probability_B=probability_B).mean()
    constant = log_losses(label_B=label_B, probability_B=np.full(len(probability_B), rows.baseline)).mean()
    assert found < constant - 0.05
    assert found == pytest.approx(result.epochs[result.best_epoch].validation_loss, abs=1e-5)
    assert result.num_train_rows == 2550
    assert "epoch 1: train" in capsys.readouterr().out


def test_the_graph_takes_any_number_of_rows_and_any_gap(storage: Storage) -> None:
    job = small_job(storage, max_epochs=1, patience_epochs=1)
    assert run(job) == ExitCode.DONE
    graph = open_graph(Path(job.output_uri, GRAPH_FILE).read_bytes())
    for num_rows in (0, 1, 7):
        categorical_BC = np.zeros((num_rows, 4), dtype=np.int64)  # 0: never seen
        numeric_BN = np.full((num_rows, len(job.spec.features.numeric)), np.nan, dtype=np.float32)
        probability_B = score(graph, categorical_BC, numeric_BN)
        assert probability_B.shape == (num_rows,)
        assert np.all((probability_B > 0) & (probability_B < 1))


def test_the_same_job_gives_the_same_bytes(storage: Storage, tmp_path: Path) -> None:
    other = Storage(root=str(tmp_path / "other"))
    one, two = small_job(storage), small_job(other)
    assert run(one) == run(two) == ExitCode.DONE
    assert one.hash == two.hash
    assert result_of(one, storage).files == result_of(two, other).files
    another_seed = small_job(storage).model_copy(update={"seed": 1})
    assert another_seed.hash != one.hash


@pytest.mark.parametrize("num_steps", [0, 1, 9, 10, 25])
def test_a_stopped_training_ends_as_an_undisturbed_one(
    storage: Storage, tmp_path: Path, stop_after: Callable[[int | None], None], num_steps: int
) -> None:
    other = Storage(root=str(tmp_path / "undisturbed"))
    undisturbed, job = small_job(other), small_job(storage)
    stop_after(None)
    assert run(undisturbed) == ExitCode.DONE
    stop_after(num_steps)
    assert run(job) == ExitCode.INTERRUPTED
    assert read_result(job, storage=storage) is None
    stop_after(3)
    assert run(job) == ExitCode.INTERRUPTED
    stop_after(None)
    assert run(job) == ExitCode.DONE
    wanted, found = result_of(undisturbed, other), result_of(job, storage)
    assert (found.files, found.epochs, found.best_epoch) == (wanted.files, wanted.epochs, wanted.best_epoch)


def test_a_complete_result_is_not_made_again(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    job = small_job(storage)
    assert run(job) == ExitCode.DONE
    before = Path(job.output_uri, RESULT_FILE).read_bytes()
    assert run(job) == ExitCode.DONE
    assert "is done already" in capsys.readouterr().out
    assert Path(job.output_uri, RESULT_FILE).read_bytes() == before
    Path(job.output_uri, GRAPH_FILE).write_bytes(b"damaged")
    shutil.rmtree(job.checkpoint_uri, ignore_errors=True)
    assert run(job) == ExitCode.DONE
    assert result_of(job, storage).files == Result.model_validate_json(before).files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ("{}", "spec: Field required"),
        ('{"schema_version": 2}', "schema_version: Input should be 1"),
    ],
)
def test_a_file_that_is_no_job_is_64(
    storage: Storage, tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.json"
    path.write_text(text)
    assert command.main(["--job", str(path)]) == ExitCode.BAD_JOB
    said = capsys.readouterr().out
    assert message in said
    assert "Nothing was trained." in said


def test_a_job_that_is_not_there_is_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--job", str(tmp_path / "job.json")]) == ExitCode.BAD_JOB
    assert "must exist; got no file" in capsys.readouterr().out


def test_another_commit_is_64(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(small_job(storage, commit="another")) == ExitCode.BAD_JOB
    assert "must be trained by the code of commit another; got commit-of-the-tests" in capsys.readouterr().out


def edited(job: Job, **changes: object) -> Job:
    """Write other fields into a job's file, as `make_job` would refuse to."""
    raw = json.loads(Path(job.uri).read_text())
    raw.update(changes)
    Path(job.uri).write_text(json.dumps(raw))
    return job


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"runner": "kubernetes"}, "may set max_epochs"),
        ({"dropout": 1.5}, "dropout: Input should be less than 1"),
        ({"max_epochs": 2, "patience_epochs": 3}, "patience_epochs must not exceed max_epochs"),
        ({"learning_rate": 1e30, "batch_size": 256}, "must keep a finite loss"),
    ],
)
def test_parameters_that_cannot_be_are_64(
    storage: Storage, params: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(edited(small_job(storage), params=params)) == ExitCode.BAD_JOB
    assert message in capsys.readouterr().out


def without_order(table: pa.Table) -> pa.Table:
    return table.sort_by([("event_at", "descending")])


def with_missing_label(table: pa.Table) -> pa.Table:
    position = table.column_names.index("label")
    return table.set_column(position, "label", pa.array([None, *table["label"].to_pylist()[1:]], pa.bool_()))


def with_one_outcome(table: pa.Table) -> pa.Table:
    position = table.column_names.index("label")
    return table.set_column(position, "label", pa.array([False] * table.num_rows))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop_columns(["temp", "carrier"]), "got none of carrier, temp"),
        (with_missing_label, "a true or false label in each row; got 1 missing"),
        (with_one_outcome, "both outcomes among its training rows; got only False"),
        (without_order, "rows in the order of event_at"),
        (lambda table: table.slice(0, 99), "50 rows or more to train and to validate; got 99"),
    ],
)
def test_rows_that_cannot_train_are_65(
    storage: Storage, spoil: Callable[[pa.Table], pa.Table], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(small_job(storage, table=spoil(small_table(400)))) == ExitCode.BAD_DATA
    said = capsys.readouterr().out
    assert message in said
    assert "Nothing was trained." in said


@pytest.mark.parametrize("damage", ["truncated", "gone", "swapped"])
def test_a_damaged_snapshot_is_65(storage: Storage, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = small_job(storage)
    path = Path(job.snapshot.uri, "data.parquet")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "gone":
        path.unlink()
    else:
        write_snapshot(storage, small_table(seed=6))
    assert run(job) == ExitCode.BAD_DATA
    assert "Nothing was" in capsys.readouterr().out


def test_bytes_that_are_no_parquet_are_65(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib

    job = small_job(storage)
    Path(job.snapshot.uri, "data.parquet").write_bytes(b"no parquet")
    snapshot = job.snapshot.model_dump(mode="json") | {"sha256": hashlib.sha256(b"no parquet").hexdigest()}
    assert run(edited(job, snapshot=snapshot)) == ExitCode.BAD_DATA
    assert "must hold Parquet" in capsys.readouterr().out
