"""The trainer as a real child process: refused, stopped, abandoned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.errors import BadInputError, TrainingError
from include.lake.storage import Storage
from include.training import command
from include.training.commit import VARIABLE
from include.training.local import TrainerProcess, _environment
from include.training.result import read_result
from tests.snapshots import small_job, small_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.training.job import Job

ROOT = Path(__file__).parents[3]
LONG = {"max_epochs": 60, "patience_epochs": 60, "learning_rate": 1e-5}


def trainer(job: Job, say: Callable[[str], None] = print, timeout_s: float = 60) -> TrainerProcess:
    return TrainerProcess(job_uri=job.uri, secrets={}, timeout_s=timeout_s, say=say)


def test_sigterm_saves_a_checkpoint_and_a_retry_ends_as_if_nothing_had_happened(
    storage: Storage, tmp_path: Path
) -> None:
    other = Storage(root=str(tmp_path / "undisturbed"))
    undisturbed = small_job(other, table=small_table(600), **LONG)
    job = small_job(storage, table=small_table(600), **LONG)
    lines: list[str] = []
    child = trainer(job)

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("epoch 3:"):
            child.terminate()

    child.say = say
    with pytest.raises(TrainingError, match=r"was interrupted\. A checkpoint is saved\."):
        child.run()
    assert lines[-1].startswith("interrupted: stopped in epoch ")
    assert read_result(job, storage=storage) is None
    assert command.main(["--job", job.uri]) == command.EXIT_DONE
    assert command.main(["--job", undisturbed.uri]) == command.EXIT_DONE
    found, wanted = read_result(job, storage=storage), read_result(undisturbed, storage=other)
    assert found is not None
    assert wanted is not None
    assert (found.files, found.epochs) == (wanted.files, wanted.epochs)


def test_a_refusal_is_final_and_says_why(storage: Storage) -> None:
    with pytest.raises(
        BadInputError, match=r"exit code 64; the trainer said: .* must be trained by the code of commit"
    ):
        trainer(small_job(storage, commit="another")).run()
    job = small_job(storage)
    Path(job.snapshot.uri, "data.parquet").unlink()
    with pytest.raises(BadInputError, match=r"exit code 65; the trainer said: .* must exist"):
        trainer(job).run()


def test_a_trainer_that_takes_too_long_is_stopped(storage: Storage) -> None:
    job = small_job(storage, max_epochs=100_000, patience_epochs=100_000)
    with pytest.raises(TrainingError, match="must end within 2 s; got no end"):
        trainer(job, timeout_s=2).run()


def test_a_crash_is_a_training_error(storage: Storage) -> None:
    job = small_job(storage, max_epochs=100_000, patience_epochs=100_000)
    child = trainer(job)

    def kill(_line: str) -> None:
        assert child._child is not None
        os.kill(child._child.pid, signal.SIGKILL)

    child.say = kill
    with pytest.raises(TrainingError, match=r"must exit with 0; got -9"):
        child.run()


def test_a_killed_parent_takes_the_trainer_with_it(storage: Storage) -> None:
    job = small_job(storage, max_epochs=100_000, patience_epochs=100_000)
    code = (
        "import sys; from include.training.local import TrainerProcess\n"
        "t = TrainerProcess(job_uri=sys.argv[1], secrets={}, timeout_s=60, say=lambda line: print(line, flush=True))\n"
        "import threading; threading.Thread(target=t.run).start()\n"
        "while t._child is None: pass\n"
        "print('pid', t._child.pid, flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, job.uri], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline().split()[1])
        while not parent.stdout.readline().startswith("epoch 2"):
            pass
        parent.kill()
        parent.wait(timeout=10)
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
    assert list(Path(job.checkpoint_uri).glob("*.pt"))


@pytest.mark.parametrize(
    "name",
    [
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
        "AIRFLOW_CONN_MODEL_SERVER_DEFAULT",
        "_AIRFLOW__AS_LIBRARY",
        "TRADEWIND_DATABASE_URL",
        "MLFLOW_BACKEND_STORE_URI",
        "MLFLOW_TRACKING_PASSWORD",
    ],
)
def test_the_trainer_gets_no_secret_but_the_storages(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "secret-of-others")
    found = _environment({"AWS_SECRET_ACCESS_KEY": "lake"})
    assert "secret-of-others" not in found.values()
    assert found["AWS_SECRET_ACCESS_KEY"] == "lake"
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ
    assert "secrets" not in repr(TrainerProcess(job_uri="j", secrets={"A": "b"}, timeout_s=1, say=print))


@pytest.mark.parametrize("name", [*command.STORAGE_VARIABLES, "AWS_PROFILE", VARIABLE, "PATH", "CUDA_VISIBLE_DEVICES"])
def test_the_trainer_keeps_what_it_needs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "needed")
    assert _environment({})[name] == "needed"


def test_stopping_what_was_never_started_does_nothing() -> None:
    TrainerProcess(job_uri="j", secrets={}, timeout_s=1, say=print).terminate()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
