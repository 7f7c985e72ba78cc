"""The trainer as a real child process: refused, stopped, killed, abandoned, found again."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from include.errors import BadInputError, SetupError, TrainingError
from include.lake.storage import Storage
from include.training import command
from include.training.commit import VARIABLE
from include.training.exit_codes import ExitCode
from include.training.interruptions import STATE_KEY, Interruptions
from include.training.local import TrainerProcess, trainer_environment
from include.training.local_run import LocalRun
from include.training.log_tail import LogTail
from include.training.preflight import GPUS_VARIABLE
from include.training.result import Result, read_result
from include.training.stop import GRACE_S, Stop
from include.training.submit import standing_of
from tests.snapshots import small_job, small_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.training.job import Job

ROOT = Path(__file__).parents[3]
LONG: dict[str, Any] = {"max_epochs": 60, "patience_epochs": 60, "learning_rate": 1e-5}
SECONDS_LONG: dict[str, Any] = {"max_epochs": 250, "patience_epochs": 250, "learning_rate": 1e-5}
ENDLESS: dict[str, Any] = {"max_epochs": 100_000, "patience_epochs": 100_000}
TASK = """
import sys
from include.lake.storage import Storage
from include.training.job import load_job
from include.training.local import TrainerProcess

uri, root, lease_s = sys.argv[1:]
storage = Storage(root=root)
trainer = TrainerProcess(
    job=load_job(uri, storage=storage), storage=storage, timeout_s=120, say=lambda line: print(line, flush=True),
    lease_s=float(lease_s),
)
trainer.run()
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def trainer(job: Job, storage: Storage, say: Callable[[str], None] = print, timeout_s: float = 120) -> TrainerProcess:
    return TrainerProcess(job=job, storage=storage, timeout_s=timeout_s, say=say)


@pytest.fixture
def task(storage: Storage) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that runs the trainer of a job from a process like a task's: the leader of its own group."""
    started = []

    def start(job: Job, *, lease_s: float = 60) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", TASK, job.uri, storage.root, str(lease_s)]
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def read_to(process: subprocess.Popen[str], start: str) -> list[str]:
    """Read what a task logs up to the line that starts so."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith(start):
            return lines
    pytest.fail(f"no line starts with {start!r}: {lines}")


def wait_for_end(pid: int, timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while is_running(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def trainer_pid(job: Job) -> int:
    process = LocalRun.of(job.uri).trainer()
    assert process is not None
    return process.pid


def epochs_in(lines: list[str]) -> list[int]:
    return [int(line.split()[1].rstrip(":")) for line in lines if line.startswith("epoch ")]


def undisturbed(tmp_path: Path, **params: Any) -> Result:
    other = Storage(root=str(tmp_path / "undisturbed"))
    job = small_job(other, table=small_table(600), **params)
    assert command.main(["--job", job.uri]) == ExitCode.DONE
    result = read_result(job, storage=other)
    assert result is not None
    return result


def test_sigterm_saves_a_checkpoint_and_a_retry_ends_as_if_nothing_had_happened(
    storage: Storage, tmp_path: Path
) -> None:
    job = small_job(storage, table=small_table(600), **SECONDS_LONG)
    lines: list[str] = []
    child = trainer(job, storage)

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("epoch 3:"):
            child.terminate()

    child.say = say
    said = (
        r"the task was asked to stop.*The newest checkpoint is .*\. Its only start has taken \d+ s\. .*continues there"
    )
    with pytest.raises(TrainingError, match=said):
        child.run()
    assert lines[-1].startswith("interrupted by SIGTERM: stopped in epoch ")
    assert read_result(job, storage=storage) is None
    again: list[str] = []
    found = trainer(job, storage, again.append).run()
    assert again[1].startswith("continuing after epoch ")
    wanted = undisturbed(tmp_path, **SECONDS_LONG)
    assert (found.files, found.epochs) == (wanted.files, wanted.epochs)


def test_a_task_that_was_stopped_before_its_trainer_started_stops_it_still(storage: Storage) -> None:
    child = trainer(small_job(storage, **ENDLESS), storage)
    child.terminate()
    with pytest.raises(TrainingError, match="the task was asked to stop"):
        child.run()


def test_a_refusal_is_final_and_says_why(storage: Storage) -> None:
    with pytest.raises(BadInputError, match=r"exit code 64; error: job .* by the code of commit.*No retry follows"):
        trainer(small_job(storage, commit="another"), storage).run()
    job = small_job(storage)
    Path(job.snapshot.uri, "data.parquet").unlink()
    with pytest.raises(BadInputError, match=r"exit code 65; error: .* must exist"):
        trainer(job, storage).run()


@pytest.mark.parametrize(
    ("entrypoint", "error", "said"),
    [
        (
            (sys.executable, "-m", "include.trainning"),
            BadInputError,
            "exit code 1; .*No module named include.trainning",
        ),
        (("/nowhere/python", "-m", "include.training"), SetupError, r"No such file or directory: '/nowhere/python'"),
        (("/dev/null", "-m", "include.training"), SetupError, r"Permission denied: '/dev/null'"),
    ],
    ids=["module", "interpreter", "no program"],
)
def test_an_entrypoint_that_does_not_exist_is_said_and_not_tried_again(
    storage: Storage, entrypoint: tuple[str, ...], error: type[Exception], said: str
) -> None:
    job = small_job(storage)
    child = trainer(job, storage)
    child.entrypoint, child.interruptions = entrypoint, Interruptions.of(job.key, Kept())
    with pytest.raises(error, match=rf"{said}.*No checkpoint was saved\. No retry follows\."):
        child.run()
    assert child.interruptions.total == 0


def test_a_trainer_that_takes_too_long_is_stopped(storage: Storage) -> None:
    with pytest.raises(TrainingError, match=r"deadline.*training.timeout_s is 2 s.*[Cc]heckpoint "):
        trainer(small_job(storage, **ENDLESS), storage, timeout_s=2).run()


def test_a_killed_trainer_is_tried_again(storage: Storage) -> None:
    job = small_job(storage, **ENDLESS)

    def say(line: str) -> None:
        if line.startswith("epoch"):
            os.kill(trainer_pid(job), signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"interrupted from outside \(exit code -9"):
        trainer(job, storage, say).run()


class Kept(dict[str, Any]):
    """A task's state store, in memory."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


def test_a_failure_of_the_machine_uses_up_no_retry(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.training.interruptions._FIRST_S", 0.1)
    job = small_job(storage, table=small_table(600), **SECONDS_LONG)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("epoch 3:") and sum(found.startswith("epoch 3:") for found in lines) == 1:
            os.kill(trainer_pid(job), signal.SIGKILL)

    store = Kept()
    child = trainer(job, storage, say)
    child.interruptions = Interruptions.of(job.key, store)
    child.run()
    assert any("It starts again in 0.1 s, interruption 1 of 5; no retry is used up." in line for line in lines)
    assert (store[STATE_KEY]["job"], store[STATE_KEY]["num"]) == (job.key, 1)


def test_a_machine_that_fails_again_and_again_ends_the_try(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.training.interruptions._FIRST_S", 0.0)
    monkeypatch.setenv(GPUS_VARIABLE, "64")
    job = small_job(storage)
    lines: list[str] = []
    child = trainer(job, storage, lines.append)
    child.interruptions = Interruptions.of(job.key, Kept())
    with pytest.raises(TrainingError, match="preflight: the node is not fit to train"):
        child.run()
    assert sum("no retry is used up" in line for line in lines) == 5


@pytest.mark.parametrize("step", ["of", "followed", "claim", "enter"])
def test_a_disk_that_is_full_before_the_start_uses_up_no_retry(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr("include.training.interruptions._FIRST_S", 0.1)
    job = small_job(storage, table=small_table(600))
    whole, left = getattr(LocalRun, step), [OSError(errno.ENOSPC, "No space left on device")]

    def fail_once(*arguments: Any) -> Any:
        if left:
            raise left.pop()
        return whole(*arguments)

    monkeypatch.setattr(LocalRun, step, fail_once)
    lines: list[str] = []
    child = trainer(job, storage, lines.append)
    child.interruptions = Interruptions.of(job.key, Kept())
    child.run()
    assert "preflight: the node is not fit to train (exit code 66; [Errno 28] No space left on device)" in lines[0]
    assert "It starts again in 0.1 s, interruption 1 of 5; no retry is used up." in lines[0]


def test_a_folder_that_may_not_be_written_is_no_full_disk(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_run: LocalRun) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(LocalRun, "claim", refuse)
    with pytest.raises(PermissionError):
        trainer(small_job(storage), storage).run()


def test_a_trainer_that_does_not_answer_is_killed_after_its_grace(storage: Storage) -> None:
    """It is stopped as by a debugger or a dead network disk, so it does not hear SIGTERM."""
    job = small_job(storage, **ENDLESS)
    child = trainer(job, storage)
    child.grace_s = 0.3

    def say(line: str) -> None:
        if line.startswith("epoch 1:"):
            os.kill(trainer_pid(job), signal.SIGSTOP)
            child.terminate()

    child.say = say
    began_s = time.monotonic()
    with pytest.raises(TrainingError, match="the task was asked to stop"):
        child.run()
    assert not is_running(trainer_pid(job))
    assert time.monotonic() - began_s < GRACE_S


def test_a_trainer_that_hears_and_does_not_end_ends_itself_after_its_grace(tmp_path: Path) -> None:
    run = LocalRun(folder=tmp_path)
    child = os.fork()
    if not child:
        stop = Stop(run=run, grace_s=0.1)
        stop.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        while True:  # as in a library that does not return
            signal.pause()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == run.exit_code() == ExitCode.INTERRUPTED


def test_an_error_in_the_task_leaves_no_trainer_behind(storage: Storage) -> None:
    job = small_job(storage, **ENDLESS)

    def say(line: str) -> None:
        if line.startswith("epoch 2:"):
            raise TimeoutError("Airflow's timeout of the task")

    with pytest.raises(TimeoutError):
        trainer(job, storage, say).run()
    assert not is_running(trainer_pid(job))
    assert standing_of(job, storage=storage).checkpoint


def test_a_retry_goes_on_with_the_trainer_of_a_killed_task(
    storage: Storage, tmp_path: Path, task: Callable[..., subprocess.Popen[str]]
) -> None:
    job = small_job(storage, table=small_table(600), **SECONDS_LONG)
    first = task(job)
    before = read_to(first, "epoch 2:")
    pid = trainer_pid(job)
    first.kill()
    first.wait()
    lines: list[str] = []
    found = trainer(job, storage, lines.append).run()
    assert lines[0].startswith(f"process {pid} trains this job since 20")
    assert not any(line.startswith("continuing after") for line in lines)
    epochs = epochs_in(before) + epochs_in(lines)
    assert epochs == sorted(epochs)
    assert epochs[-1] == 250
    assert len(epochs_in(lines)) == len(set(epochs_in(lines)))
    assert found.files == undisturbed(tmp_path, **SECONDS_LONG).files


def test_a_trainer_that_nobody_follows_any_more_saves_a_checkpoint_and_ends(
    storage: Storage, task: Callable[..., subprocess.Popen[str]]
) -> None:
    job = small_job(storage, **ENDLESS)
    process = task(job, lease_s=3)
    read_to(process, "epoch 2:")
    pid = trainer_pid(job)
    time.sleep(4)
    assert is_running(pid)  # it is followed
    process.kill()
    wait_for_end(pid)
    assert standing_of(job, storage=storage).checkpoint
    assert "interrupted by no task has followed it for 3 s" in LocalRun.of(job.uri).log.read_text()


@pytest.mark.chaos
def test_a_trainer_that_a_retry_on_another_machine_has_replaced_ends(
    storage: Storage, task: Callable[..., subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job(storage, **ENDLESS)
    first = task(job)
    read_to(first, "epoch 2:")
    pid, log = trainer_pid(job), LocalRun.of(job.uri).log
    first.kill()
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "other"))  # whose locks the first machine does not see
    second = task(job)
    read_to(second, "epoch ")
    wait_for_end(pid)
    assert "interrupted by no task follows it, and a trainer on another machine has taken over" in log.read_text()
    os.killpg(second.pid, signal.SIGTERM)


def test_a_trainer_leaves_its_group_to_save_a_checkpoint_after_the_group_was_killed(
    storage: Storage, task: Callable[..., subprocess.Popen[str]]
) -> None:
    job = small_job(storage, **ENDLESS)
    process = task(job)
    read_to(process, "epoch 2:")
    pid = trainer_pid(job)
    assert os.getpgid(pid) == process.pid
    os.killpg(process.pid, signal.SIGTERM)  # as Airflow does, and SIGKILL a while later
    while is_running(pid) and os.getpgid(pid) == process.pid:
        time.sleep(0.001)
    process.kill()
    wait_for_end(pid)
    assert standing_of(job, storage=storage).checkpoint


def test_two_tries_at_once_share_one_trainer(storage: Storage) -> None:
    job = small_job(storage, table=small_table(600), **LONG)
    lines: list[list[str]] = [[], []]
    results: list[Result] = []
    tries = [
        threading.Thread(target=lambda said=said: results.append(trainer(job, storage, said.append).run()))
        for said in lines
    ]
    for one in tries:
        one.start()
    for one in tries:
        one.join()
    assert len(results) == 2
    assert results[0] == results[1]
    assert sum(line.startswith("job ") for said in lines for line in said if "rows to train" in line) >= 1
    assert sum("trains this job since" in line for said in lines for line in said) == 1


@pytest.mark.chaos
def test_a_task_that_is_stopped_leaves_the_trainer_to_another_that_follows_it(
    storage: Storage, task: Callable[..., subprocess.Popen[str]]
) -> None:
    job = small_job(storage, **ENDLESS)
    process = task(job)
    read_to(process, "epoch 1:")
    other = trainer(job, storage)
    other.say = lambda _line: other.terminate()
    with pytest.raises(TrainingError, match="the task was asked to stop"):
        other.run()
    pid = trainer_pid(job)
    time.sleep(0.3)
    assert is_running(pid)
    os.killpg(process.pid, signal.SIGTERM)
    wait_for_end(pid)


@pytest.mark.chaos
def test_a_trainer_that_a_clear_has_stopped_is_followed_by_another(
    storage: Storage, task: Callable[..., subprocess.Popen[str]]
) -> None:
    job = small_job(storage, table=small_table(600), **SECONDS_LONG)
    process = task(job)
    read_to(process, "epoch 2:")
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if "trains this job since" in line:
            os.kill(trainer_pid(job), signal.SIGTERM)

    trainer(job, storage, say).run()
    assert any("another one goes on" in line for line in lines)
    assert any(line.startswith("continuing after epoch") for line in lines)


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / f"tradewind-trainers-{os.getuid()}"
    folder.mkdir(mode=0o755)
    with pytest.raises(SetupError, match=r"must be a folder that only user \d+ may enter; got .* mode 755"):
        LocalRun.of("/lake/jobs/m/1/job.json")


def test_what_trainers_left_behind_weeks_ago_is_deleted_unless_one_lives(tmp_path: Path) -> None:
    runs = [LocalRun.of(f"/lake/jobs/m/{number}/job.json") for number in range(3)]
    lock = runs[1].claim()
    assert lock is not None
    for run in runs[:2]:
        os.utime(run.folder, (0, 0))
    LocalRun.of("/lake/jobs/m/another/job.json")
    assert [run.folder.exists() for run in runs] == [False, True, True]
    os.close(lock)


def test_a_line_is_read_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = LogTail(path=path)
    assert list(tail.lines(is_over=False)) == []
    path.write_bytes(b"one\ntw")
    assert list(tail.lines(is_over=False)) == ["one"]
    with path.open("ab") as log:
        log.write(b"o\n\xff thr")
    assert list(tail.lines(is_over=False)) == ["two"]
    assert list(tail.lines(is_over=True)) == ["\ufffd thr"]
    assert list(tail.lines(is_over=True)) == []


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
    found = trainer_environment({"AWS_SECRET_ACCESS_KEY": "lake"})
    assert "secret-of-others" not in found.values()
    assert found["AWS_SECRET_ACCESS_KEY"] == "lake"
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ


@pytest.mark.parametrize("name", [*command.STORAGE_VARIABLES, "AWS_PROFILE", VARIABLE, "PATH", "CUDA_VISIBLE_DEVICES"])
def test_the_trainer_keeps_what_it_needs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "needed")
    assert trainer_environment({})[name] == "needed"


def test_a_token_goes_with_its_own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of the worker's keys")
    assert "AWS_SESSION_TOKEN" not in trainer_environment({"AWS_ACCESS_KEY_ID": "lake"})
    assert trainer_environment({"AWS_ACCESS_KEY_ID": "lake", "AWS_SESSION_TOKEN": "its"})["AWS_SESSION_TOKEN"] == "its"
