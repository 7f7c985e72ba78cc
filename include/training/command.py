"""What the training command does, step by step, and what it exits with."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import BadInputError, TradewindError
from include.lake.storage import Storage
from include.training.claim import Claim
from include.training.commit import current_commit
from include.training.endings import TERMINATION_LOG, StoppedError, exit_code_of, tell_kubernetes
from include.training.exit_codes import ExitCode
from include.training.job import load_job
from include.training.local_run import LocalRun
from include.training.preflight import Machine, check_machine, check_torch
from include.training.provenance import packages_after
from include.training.resources import PRICE_VARIABLE, ResourceSampler
from include.training.stop import LEASE_S, Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.training.fit import Fitted
    from include.training.job import Job
    from include.training.resources import Resources
    from include.training.result import Result
    from include.training.rows import Rows

STORAGE_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ALLOW_HTTP",
)
"""Environment that opens an object store: secrets reach the trainer by no other way."""

_TRACED_ROWS = 64


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


def main(arguments: Sequence[str], *, termination_log: Path = TERMINATION_LOG) -> int:
    """Run one job and return the exit code.

    Args:
        arguments: Of the command line.
        termination_log: Where each process of a container says why it ends early.
    """
    parser = argparse.ArgumentParser(prog="python -m include.training", description="Train one job.")
    parser.add_argument("--job", required=True, help="URI of job.json")
    parser.add_argument("--local-run", type=Path, help="folder that a task on this machine shares with the trainer")
    parser.add_argument("--lease-s", type=float, default=LEASE_S, help="seconds to go on when no task follows it")
    options = parser.parse_args(arguments)
    run = LocalRun(folder=options.local_run) if options.local_run else None
    stop = Stop(run=run, lease_s=options.lease_s)
    stop.listen()
    code, why = _run(options.job, stop=stop)
    if run:
        run.leave(code)
    if why:
        tell_kubernetes(code, why, path=termination_log)
    return code


def _run(job_uri: str, *, stop: Stop) -> tuple[int, str]:
    """Load, then train; each error is said, and becomes the code that tells who has to do something about it.

    Returns:
        The exit code, and what was said of an early end.
    """
    secrets = {name: os.environ[name] for name in STORAGE_VARIABLES if name in os.environ}
    storage = Storage(root=job_uri, options=secrets)
    blame = ExitCode.BAD_JOB
    try:
        if stop.run:
            stop.run.enter(os.getpid())
        job = load_job(job_uri, storage=storage)
        _require_same_commit(job)
        job.training  # noqa: B018 - refuses parameters before any row is read
        if _is_done(job, storage=storage):
            return ExitCode.DONE, ""
        watch = _Watch()
        machine = Machine.this_one()
        sizes = _checkpoints_bytes(job, storage)
        check_machine(job, machine=machine, is_local=storage.is_local, checkpoints_bytes=sizes)
        check_torch(job, machine=machine)
        if stop.run:
            stop.claim = Claim.take(job, storage=storage)
        watch.lap("preflight")
        with _sampler(job, storage=storage, machine=machine) as sampler:
            blame = ExitCode.BAD_DATA
            rows = _load(job, storage=storage, watch=watch)
            blame = ExitCode.BAD_JOB
            _train(job, rows, storage=storage, stop=stop, watch=watch, sampler=sampler)
            return ExitCode.DONE, ""
    except StoppedError as error:
        why = f"interrupted by {stop.why or 'another process'}: {error}"
        _say(why)
        return ExitCode.INTERRUPTED, why
    except Exception as error:  # noqa: BLE001 - the last place where an error can be told apart from another
        if not isinstance(error, TradewindError):
            _say(traceback.format_exc().rstrip(), by_all=True)
        _say(f"error: {error}", by_all=True)
        return exit_code_of(error, refused=blame), f"{type(error).__name__}: {error}"


def _is_done(job: Job, *, storage: Storage) -> bool:
    from include.training.result import read_result

    found = read_result(job, storage=storage)
    if found:
        _say(f"job {job.key} is done already")
    return found is not None


def _checkpoints_bytes(job: Job, storage: Storage) -> list[int]:
    """Return the sizes of the checkpoints on this machine's disk, oldest first."""
    from include.training.checkpoints import Checkpoints

    found = Checkpoints.of_job(job, storage=storage).uris() if storage.is_local else []
    return [sum(path.stat().st_size for path in Path(uri).iterdir()) for uri in found]


def _sampler(job: Job, *, storage: Storage, machine: Machine) -> ResourceSampler:
    price = machine.environment.get(PRICE_VARIABLE)
    return ResourceSampler(
        job,
        storage=storage,
        num_gpus=machine.num_gpus * machine.num_machines,
        price_per_hour=float(price) if price else None,
        is_kept=machine.is_first,
    )


def _load(job: Job, *, storage: Storage, watch: _Watch) -> Rows:
    from include.training.rows import load_rows

    rows = load_rows(job, storage=storage)
    _say(f"job {job.key}: {rows.num_train} rows to train, {len(rows.label_B) - rows.num_train} held out")
    watch.lap("read")
    return rows


def _train(job: Job, rows: Rows, *, storage: Storage, stop: Stop, watch: _Watch, sampler: ResourceSampler) -> None:
    from include.training.checkpoints import Checkpoints
    from include.training.fit import InterruptedTrainingError, fit
    from include.training.ranks import joined_ranks
    from include.training.result import write_result

    watch.lap("import")
    checkpoints = Checkpoints.of_job(job, storage=storage)
    try:
        with joined_ranks() as ranks:
            if ranks.device.type == "cuda":
                sampler.num_gpus = max(sampler.num_gpus, ranks.world_size)
            fitted = fit(job, rows, checkpoints=checkpoints, should_stop=stop, say=_say, ranks=ranks)
    except InterruptedTrainingError as error:
        raise StoppedError(str(error)) from error
    if not ranks.is_first:
        return
    watch.lap("fit")
    contents = _graph(rows, fitted)
    watch.lap("export")
    result = _result(job, rows, fitted, contents=contents, seconds=watch.seconds, resources=sampler.resources())
    write_result(job, result, contents=contents, storage=storage)
    _say("done: " + ", ".join(f"{step} {spent:.1f} s" for step, spent in watch.seconds.items()))


def _graph(rows: Rows, fitted: Fitted) -> dict[str, bytes]:
    from include.training.export import export_onnx
    from include.training.result import ENCODING_FILE, GRAPH_FILE

    newest = slice(-_TRACED_ROWS, None)
    graph = export_onnx(
        fitted.network,
        task=rows.task,
        categorical_BC=rows.categorical_BC[newest],
        numeric_BN=rows.numeric_BN[newest],
    )
    return {GRAPH_FILE: graph, ENCODING_FILE: rows.encoding.to_json().encode()}


def _result(
    job: Job,
    rows: Rows,
    fitted: Fitted,
    *,
    contents: dict[str, bytes],
    seconds: dict[str, float],
    resources: Resources,
) -> Result:
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
        device="cpu" if fitted.machine["device"] == "cpu" else "cuda",
        packages=packages_after(fitted.packages),
        machine=dict(fitted.machine),
        data_wait_frac=fitted.data_wait_frac,
        seconds=seconds,
        resources=resources,
        finished_at_ms=int(time.time() * 1000),
    )


def _require_same_commit(job: Job) -> None:
    found = current_commit()
    if found != job.commit:
        raise BadInputError(
            f"job {job.key} must be trained by the code of commit {job.commit}; got {found}. Nothing was trained. "
            "Start the training again from the Dag, or run the trainer image of that commit."
        )


def _say(line: str, *, by_all: bool = False) -> None:
    """Print a line once for all processes that train together, or once by each; a full disk loses the line alone."""
    if not (by_all or Machine(environment=os.environ).is_first):
        return
    with contextlib.suppress(OSError):
        print(line, flush=True)  # noqa: T201 - a command's output; the operator or the pod logs it
