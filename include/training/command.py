"""What the training command does, step by step, and what it exits with."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from include.errors import BadInputError, TradewindError
from include.lake.storage import Storage
from include.training.commit import current_commit
from include.training.job import load_job

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from include.training.fit import Fitted
    from include.training.job import Job
    from include.training.result import Result
    from include.training.rows import Rows

EXIT_DONE = 0
EXIT_BAD_JOB = 64
EXIT_BAD_DATA = 65
EXIT_INTERRUPTED = 75

STORAGE_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP")
"""Environment that opens an object store: secrets reach the trainer by no other way."""

GRACE_S = 20.0
"""Seconds to save a checkpoint after being asked to stop."""

_PACKAGES = ("torch", "numpy", "pyarrow", "onnxruntime-gpu", "onnxruntime")
_TRACED_ROWS = 64


class _Stop:
    """Whether someone asked the trainer to end: by SIGTERM, or by closing its standard input."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __call__(self) -> bool:
        return self._asked.is_set()

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked.set()

    def watch_stdin(self) -> None:
        """Ask when standard input ends, which it does whenever its writer is gone, after SIGKILL too."""

        def wait() -> None:
            while os.read(0, 1024):
                pass
            self._asked.set()
            time.sleep(GRACE_S)
            os._exit(EXIT_INTERRUPTED)  # it hangs in a library, and nobody is left to kill it

        threading.Thread(target=wait, daemon=True).start()


class _Watch:
    """How long each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, step: str) -> None:
        """Name the step that ends now."""
        now = time.monotonic()
        self.seconds[step] = round(now - self._since, 3)
        self._since = now


def main(arguments: Sequence[str]) -> int:
    """Run one job and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m include.training", description="Train one job.")
    parser.add_argument("--job", required=True, help="URI of job.json")
    parser.add_argument("--stop-with-stdin", action="store_true", help="end as on SIGTERM when standard input closes")
    options = parser.parse_args(arguments)
    stop = _Stop()
    signal.signal(signal.SIGTERM, stop.on_signal)
    if options.stop_with_stdin:
        stop.watch_stdin()
    secrets = {name: os.environ[name] for name in STORAGE_VARIABLES if name in os.environ}
    storage = Storage(root=options.job, options=secrets)
    try:
        job = load_job(options.job, storage=storage)
        _require_same_commit(job)
        job.training  # noqa: B018 - refuses parameters before any row is read
    except TradewindError as error:
        return _fail(EXIT_BAD_JOB, error)
    return _run(job, storage=storage, stop=stop)


def _run(job: Job, *, storage: Storage, stop: _Stop) -> int:
    from include.training.result import read_result
    from include.training.rows import load_rows

    if read_result(job, storage=storage):
        _say(f"job {job.key} is done already")
        return EXIT_DONE
    watch = _Watch()
    try:
        rows = load_rows(job, storage=storage)
    except TradewindError as error:
        return _fail(EXIT_BAD_DATA, error)
    _say(f"job {job.key}: {rows.num_train} rows to train, {len(rows.label_B) - rows.num_train} held out")
    watch.lap("read")
    from include.training.fit import InterruptedTrainingError

    watch.lap("import")
    try:
        _train(job, rows, storage=storage, stop=stop, watch=watch)
    except InterruptedTrainingError as error:
        _say(f"interrupted: {error}; a checkpoint is saved")
        return EXIT_INTERRUPTED
    except TradewindError as error:
        return _fail(EXIT_BAD_JOB, error)
    return EXIT_DONE


def _train(job: Job, rows: Rows, *, storage: Storage, stop: _Stop, watch: _Watch) -> None:
    from include.training.checkpoints import Checkpoints
    from include.training.export import export_onnx
    from include.training.fit import fit
    from include.training.result import ENCODING_FILE, GRAPH_FILE, write_result

    checkpoints = Checkpoints(uri=job.checkpoint_uri, job_hash=job.hash, storage=storage)
    fitted = fit(job, rows, checkpoints=checkpoints, should_stop=stop, say=_say)
    watch.lap("fit")
    newest = slice(-_TRACED_ROWS, None)
    graph = export_onnx(
        fitted.network,
        task=rows.task,
        categorical_BC=rows.categorical_BC[newest],
        numeric_BN=rows.numeric_BN[newest],
    )
    contents = {GRAPH_FILE: graph, ENCODING_FILE: rows.encoding.to_json().encode()}
    watch.lap("export")
    result = _result(job, rows, fitted, contents=contents, seconds=watch.seconds)
    write_result(job, result, contents=contents, storage=storage)
    _say("done: " + ", ".join(f"{step} {spent:.1f} s" for step, spent in watch.seconds.items()))


def _result(job: Job, rows: Rows, fitted: Fitted, *, contents: dict[str, bytes], seconds: dict[str, float]) -> Result:
    import torch

    from include.training.result import Result

    return Result(
        job_key=job.key,
        job_hash=job.hash,
        files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        num_train_rows=rows.num_train,
        num_validation_rows=len(rows.label_B) - rows.num_train,
        baseline=rows.baseline,
        device="cuda" if torch.cuda.is_available() else "cpu",
        packages=_versions(),
        seconds=seconds,
        finished_at_ms=int(time.time() * 1000),
    )


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _require_same_commit(job: Job) -> None:
    found = current_commit()
    if found != job.commit:
        raise BadInputError(
            f"job {job.key} must be trained by the code of commit {job.commit}; got {found}. Nothing was trained. "
            "Start the training again from the Dag, or run the trainer image of that commit."
        )


def _fail(code: int, error: TradewindError) -> int:
    _say(f"error: {error}")
    return code


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a command's output; the operator or the pod logs it
