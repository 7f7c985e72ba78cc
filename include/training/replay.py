"""Train a registered version again from its lock file: the same bytes come out, or each input that differs is named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import BadInputError, NotFoundError, SetupError, TrainingError
from include.lake.files import read_bytes, write_bytes
from include.lake.storage import Storage
from include.registry.package import FP32_GRAPH, LOCK
from include.training.commit import VARIABLE, current_commit
from include.training.job import JOB_FILE, Job
from include.training.local import REPO, trainer_environment
from include.training.provenance import ABSENT, versions
from include.training.result import GRAPH_FILE, RESULT_FILE
from include.training.snapshot import DATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from include.registry.package import Package

_COMMIT = re.compile(r"([0-9a-f]{40})(\+models-[0-9a-f]+)?")
_MODELS_VARIABLE = "TRADEWIND_MODELS"
_GIT_S = 120
_UNKNOWN = "not recorded"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An input of the training that is not what it was.

    Attributes:
        name: Of the input, such as `package torch`.
        then: What it was when the version was trained.
        now: What it is here.
    """

    name: str
    then: str
    now: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.name}: {self.then} then, {self.now} now"


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of a second training.

    Attributes:
        wanted: SHA-256 of the version's fp32 graph.
        found: SHA-256 of the graph that was trained here; None: it could not be trained.
        differences: Every recorded input that differs.
    """

    wanted: str
    found: str | None
    differences: tuple[Difference, ...]

    @property
    def is_equal(self) -> bool:
        """Whether the same bytes came out."""
        return self.found == self.wanted


def replay(package: Package, *, storage: Storage, folder: Path, say: Callable[[str], None]) -> Replay:
    """Train a version again; nothing of the deployment is changed.

    The code is the version's own, from git, where git has its commit; otherwise the code that is here.

    Args:
        package: The version's package.
        storage: The lake, where its snapshot is.
        folder: An empty folder of this machine for what is trained.
        say: Gets each line that the trainer prints.

    Raises:
        NotFoundError: The lock file does not hold the job, and the job's folder is gone.
        TrainingError: The job does not train here, although nothing that was recorded differs.
    """
    lock, wanted = package.json(LOCK), package.files[FP32_GRAPH]
    raw = _job_of(lock, storage=storage)
    differing_snapshot = _fetch_snapshot(raw["snapshot"], model=lock["model"], storage=storage, folder=folder)
    if differing_snapshot:
        return Replay(wanted=wanted, found=None, differences=(differing_snapshot, *_here(lock)))
    raw |= {"output_uri": f"{folder}/job", "checkpoint_uri": f"{folder}/job/checkpoints"}
    raw["snapshot"] = {**raw["snapshot"], "uri": str(folder)}
    job_uri = f"{raw['output_uri']}/{JOB_FILE}"
    local = Storage(root=str(folder))
    write_bytes(job_uri, json.dumps(raw).encode(), storage=local)
    with _code_of(raw["commit"], folder=folder / "code") as (code, is_its_own):
        differences = () if is_its_own else _of_the_code(raw, lock)
        environment = _environment_for(raw["commit"], is_from_git=code != REPO)
        ended = _train(job_uri, code=code, environment=environment, say=say)
    try:
        # Not as a Result: the version's own code may be of a release that wrote fewer fields, or more.
        result = json.loads(read_bytes(f"{raw['output_uri']}/{RESULT_FILE}", storage=local))
    except NotFoundError as error:
        differences = (*differences, *_here(lock), *_of_the_machine(lock, _machine_here()))
        if differences:
            return Replay(wanted=wanted, found=None, differences=differences)
        raise TrainingError(
            f"job {lock['job_key']} must train again from its lock file; got exit code {ended}, and no recorded input "
            "differs. Nothing was changed. What the trainer said above names the cause."
        ) from error
    differences = (*differences, *_here(lock), *_of_the_machine(lock, result.get("machine", {})))
    return Replay(wanted=wanted, found=result["files"][GRAPH_FILE], differences=differences)


def _job_of(lock: Mapping[str, Any], *, storage: Storage) -> dict[str, Any]:
    """Return the job as it was written; locks of older releases name only its folder."""
    if "job" in lock:
        return dict(lock["job"])
    uri = f"{storage.job(lock['model'], lock['job_key'])}/{JOB_FILE}"
    return dict(json.loads(read_bytes(uri, storage=storage)))


def _fetch_snapshot(ref: Mapping[str, Any], *, model: str, storage: Storage, folder: Path) -> Difference | None:
    """Copy a snapshot's rows into the folder; return what is wrong with them, None if they are those of then."""
    places = (str(ref["uri"]), storage.snapshot(model, str(ref["uri"]).rpartition("/")[2]))
    found = ""
    for uri in dict.fromkeys(places):  # the lake may have been restored or moved elsewhere
        rows = _rows_at(uri, storage=storage)
        if rows is None:
            continue
        found = hashlib.sha256(rows).hexdigest()
        if found == ref["sha256"]:
            write_bytes(f"{folder}/{DATA}", rows, storage=Storage(root=str(folder)))
            return None
    if found:
        return Difference(name="snapshot's SHA-256", then=str(ref["sha256"]), now=found)
    return Difference(name="snapshot", then=places[0], now="gone")


def _rows_at(uri: str, *, storage: Storage) -> bytes | None:
    """Return a snapshot's bytes, None if there are none, or if the place is one that the lake does not reach any more.

    Raises:
        SetupError: The lake itself refuses.
        ServiceError: It does not answer.
    """
    if _scheme(uri) != _scheme(storage.root):
        return None
    try:
        return read_bytes(f"{uri}/{DATA}", storage=storage)
    except NotFoundError:
        return None
    except SetupError:
        if uri.startswith(f"{storage.root}/"):
            raise
        return None


def _scheme(uri: str) -> str:
    return uri.partition("://")[0] if "://" in uri else ""


@contextlib.contextmanager
def _code_of(commit: str, *, folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the folder with the code to train with, and whether it is that of the commit."""
    here = current_commit()
    if commit == here:
        yield REPO, True
        return
    found = _COMMIT.fullmatch(commit)
    head, models = found.groups(default="") if found else ("", "")
    is_known = bool(head) and here.endswith(models)  # git knows no models of another folder: they must be as they were
    has_it = is_known and _git("worktree", "add", "--detach", "--quiet", str(folder), head)
    try:
        yield (folder, True) if has_it else (REPO, False)
    finally:
        if has_it:
            _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> bool:
    try:
        command = ["git", "-C", str(REPO), *arguments]
        subprocess.run(command, capture_output=True, check=True, timeout=_GIT_S)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _environment_for(commit: str, *, is_from_git: bool) -> dict[str, str]:
    """Return the trainer's environment: code from git knows its commit, other code has to call itself by it."""
    if not is_from_git:
        return trainer_environment({VARIABLE: commit})
    environment = trainer_environment({})
    strange = (VARIABLE,) if "+" in commit else (VARIABLE, _MODELS_VARIABLE)
    return {name: value for name, value in environment.items() if name not in strange}


def _train(job_uri: str, *, code: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> int:
    """Run the training command with the code of a folder and return its exit code; `say` gets each line of it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "include.training", "--job", job_uri],
        cwd=code,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with child:
        for line in child.stdout or ():
            say(line.rstrip())
    return child.returncode


def _of_the_code(raw: Mapping[str, Any], lock: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return how the code that is here differs: its commit, and what it makes of the parameters."""
    found = [Difference(name="commit", then=raw["commit"], now=current_commit())]
    try:
        now = Job.model_validate_json(json.dumps(raw)).training.model_dump(mode="json")
    except (ValueError, BadInputError) as error:
        return (*found, Difference(name="job file", then="accepted", now=f"refused: {str(error).splitlines()[0]}"))
    found += _differing(lock["training"], now, prefix="parameter ")
    return tuple(found)


def _here(lock: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return which of the packages that trained have another version here."""
    then = lock["packages"]
    return tuple(_differing(then, {name: versions([name]).get(name, ABSENT) for name in then}, prefix="package "))


def _machine_here() -> dict[str, str]:
    """Return what the trainer would compute on here; how many threads it takes is its own choice."""
    from include.training.origin import Origin
    from include.training.ranks import Ranks

    machine = Origin.here(Ranks.alone()).machine
    return {name: value for name, value in machine.items() if name != "num_threads"}


def _of_the_machine(lock: Mapping[str, Any], machine: Mapping[str, str]) -> Iterator[Difference]:
    then = lock.get("machine", {})
    both = then.keys() & machine.keys()  # older releases recorded less
    return _differing({name: then[name] for name in both}, {name: machine[name] for name in both}, prefix="machine's ")


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], *, prefix: str) -> Iterator[Difference]:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            yield Difference(
                name=f"{prefix}{name}", then=str(then.get(name, _UNKNOWN)), now=str(now.get(name, _UNKNOWN))
            )
