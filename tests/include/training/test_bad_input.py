"""What the training command answers to input that cannot be: a code that says whose fault it is, and a message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from include.training import command
from include.training.checkpoints import Checkpoints
from include.training.exit_codes import ExitCode
from include.training.result import read_result
from include.training.stop import Stop
from tests.snapshots import COMMIT, small_job, small_table, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage
    from include.training.job import Job

ROOT = Path(__file__).parents[3]


@pytest.fixture
def job(storage: Storage) -> Job:
    return small_job(storage, table=small_table(600))


def rewrite(job: Job, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a job's file as no Dag would."""
    raw = json.loads(Path(job.uri).read_text())
    change(raw)
    Path(job.uri).write_text(json.dumps(raw))


def run(job: Job, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = command.main(["--job", job.uri])
    return code, capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda raw: raw.update(gpus=4), 64, "gpus: Extra inputs are not permitted"),
        (lambda raw: raw["spec"]["training"].update(epochs=4), 64, "spec.training.epochs: Extra inputs are not"),
        (lambda raw: raw["snapshot"].update(uri="/nowhere"), 65, "file '/nowhere/data.parquet' must exist"),
        (lambda raw: raw["snapshot"].update(sha256="0" * 64), 65, "must have the SHA-256 0000000000000000; got "),
    ],
    ids=["unknown key", "unknown key of the spec", "missing snapshot", "another hash"],
)
def test_a_process_ends_with_the_code_and_says_why(
    job: Job, change: Callable[[dict[str, Any]], object], code: int, message: str
) -> None:
    rewrite(job, change)
    arguments = [sys.executable, "-m", "include.training", "--job", job.uri]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == code
    assert message in done.stdout
    assert "Nothing was" in done.stdout
    assert done.stderr == ""


def test_what_a_full_disk_does_not_print_changes_no_exit_code(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "include.training", "--job", str(tmp_path / "job.json")]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(arguments, cwd=ROOT, stdout=full, stderr=full, check=False)
    assert done.returncode == ExitCode.BAD_JOB


def test_a_model_without_code_is_a_bad_job(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(job, lambda raw: raw["spec"].update(name="no_such_model"))
    code, said = run(job, capsys)
    assert code == ExitCode.BAD_JOB
    assert "'no_such_model' must have a network.py beside its model.yaml; got none. Nothing was trained." in said
    assert "Traceback" not in said


def test_an_error_in_the_models_code_is_shown_whole(
    job: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_inputs: object) -> None:
        raise ZeroDivisionError("in the model's code")

    monkeypatch.setattr("include.models.flight_delays.network.build_network", broken)
    code, said = run(job, capsys)
    assert code == 1
    assert "ZeroDivisionError: in the model's code" in said
    assert "Traceback" in said


def interrupt(job: Job, capsys: pytest.CaptureFixture[str], *, after_steps: int) -> None:
    left = iter(range(after_steps))
    with pytest.MonkeyPatch.context() as stopped:
        stopped.setattr(Stop, "__call__", lambda _self: next(left, None) is None)
        assert run(job, capsys)[0] == ExitCode.INTERRUPTED


def test_the_checkpoint_before_a_corrupt_one_is_used_and_said(
    storage: Storage, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps in (3, 2):
        interrupt(job, capsys, after_steps=steps)
    newest = Checkpoints.of_job(job, storage=storage).newest_uri()
    assert newest is not None
    state = next(path for path in Path(newest).iterdir() if path.suffix == ".pt")
    state.write_bytes(state.read_bytes()[:-1])
    code, said = run(job, capsys)
    assert code == ExitCode.DONE
    assert f"checkpoint '{newest}' must hold the files that its manifest names" in said
    assert "It is passed over for the one before." in said
    assert "continuing after epoch" in said
    undisturbed = small_job(storage.__class__(root=str(tmp_path / "other")), table=small_table(600))
    assert run(undisturbed, capsys)[0] == ExitCode.DONE
    found, wanted = (read_result(one, storage=storage) for one in (job, undisturbed))
    assert found is not None
    assert wanted is not None
    assert found.files == wanted.files


def test_a_checkpoint_of_another_model_is_refused(
    storage: Storage, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(job, capsys, after_steps=3)
    other = small_job(storage, table=small_table(600, seed=9), dropout=0.5)
    rewrite(other, lambda raw: raw.update(checkpoint_uri=job.checkpoint_uri))
    code, said = run(other, capsys)
    assert code == ExitCode.BAD_JOB
    assert f"must be of job {other.hash[:12]}" in said
    assert "Nothing was trained." in said


def test_the_snapshot_of_another_model_is_bad_data(
    storage: Storage, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    ref = write_snapshot(storage, small_table(600).drop_columns(["carrier"]), name="another")
    rewrite(job, lambda raw: raw.update(snapshot=ref.model_dump(mode="json"), commit=COMMIT))
    code, said = run(job, capsys)
    assert code == ExitCode.BAD_DATA
    assert "must hold the columns of model.yaml; got none of carrier" in said
