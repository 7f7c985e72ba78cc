"""A registered version is trained again from its lock file, by the real training command."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import NotFoundError, SetupError, TrainingError
from include.lake.files import read_bytes, write_bytes
from include.lake.storage import Storage
from include.registry.assemble import assemble_package
from include.registry.package import FP32_GRAPH, LOCK, Package, write_package
from include.training import command
from include.training import replay as replay_module
from include.training.commit import VARIABLE
from include.training.evaluate import evaluate
from include.training.exit_codes import ExitCode
from include.training.job import JOB_FILE
from include.training.local import REPO
from include.training.provenance import processor, versions
from include.training.replay import Replay, _code_of, _environment_for, _fetch_snapshot, replay
from include.training.result import GRAPH_FILE, RESULT_FILE
from include.training.snapshot import DATA
from tests.snapshots import COMMIT, small_job, small_table

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, Storage]:
    """Return the package of a tiny version, and the lake with its snapshot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, COMMIT)
        storage = Storage(root=str(tmp_path_factory.mktemp("lake")))
        job = small_job(storage, table=small_table(600), max_epochs=2, patience_epochs=2)
        assert command.main(["--job", job.uri]) == ExitCode.DONE
        evaluate(job, storage=storage, champion=None)
        return assemble_package(job, storage=storage).package, storage


@pytest.fixture
def again(trained: tuple[Package, Storage], tmp_path: Path) -> Callable[..., tuple[Replay, list[str]]]:
    """Return a function that trains a package again, after a change of its lock and of its graph."""
    package, storage = trained

    def run(
        change: Callable[[dict[str, Any]], object] = lambda _lock: None, *, graph: bytes | None = None
    ) -> tuple[Replay, list[str]]:
        lock = package.json(LOCK)
        change(lock)
        contents = {**package.contents, LOCK: json.dumps(lock).encode()}
        contents |= {FP32_GRAPH: graph} if graph else {}
        changed = write_package(str(tmp_path / "package"), model=package.model, job_key="job", contents=contents)
        lines: list[str] = []
        folder = tmp_path / "replay"
        folder.mkdir()
        return replay(changed, storage=storage, folder=folder, say=lines.append), lines

    return run


def test_the_same_bytes_come_out(again: Callable[..., tuple[Replay, list[str]]], trained: tuple[Package, Any]) -> None:
    found, lines = again()
    assert found.is_equal
    assert found.found == trained[0].files[FP32_GRAPH]
    assert found.differences == ()
    assert any(line.startswith("epoch 2:") for line in lines)


def test_a_lake_that_was_moved_is_found(again: Callable[..., tuple[Replay, list[str]]]) -> None:
    assert again(lambda lock: lock["job"]["snapshot"].update(uri="/before/snapshots/flight_delays/small"))[0].is_equal


def test_a_lake_that_was_moved_to_an_object_store_is_found(
    trained: tuple[Package, Storage], bucket: Storage, tmp_path: Path
) -> None:
    package, disk = trained
    job = package.json(LOCK)["job"]
    name = job["snapshot"]["uri"].rpartition("/")[2]
    uri = bucket.snapshot(package.model, name)
    write_bytes(f"{uri}/{DATA}", read_bytes(f"{job['snapshot']['uri']}/{DATA}", storage=disk), storage=bucket)
    assert replay(package, storage=bucket, folder=tmp_path, say=print).is_equal


@pytest.mark.parametrize(
    "before", ["s3://gone/snapshots/flight_delays/small", "s3://lake/before/small", "/before/small"]
)
def test_each_place_of_a_snapshot_is_tried(bucket: Storage, tmp_path: Path, before: str) -> None:
    """A bucket that is gone, other rows where it was, a folder of another machine."""
    rows = b"rows"
    write_bytes("s3://lake/before/small/data.parquet", b"other rows", storage=bucket)
    write_bytes(f"{bucket.snapshot('flight_delays', 'small')}/{DATA}", rows, storage=bucket)
    ref = {"uri": before, "sha256": hashlib.sha256(rows).hexdigest()}
    assert _fetch_snapshot(ref, model="flight_delays", storage=bucket, folder=tmp_path) is None
    assert (tmp_path / DATA).read_bytes() == rows


def test_a_lake_that_refuses_is_not_one_without_the_snapshot(tmp_path: Path, bucket: Storage) -> None:
    closed = Storage(root="s3://no-such-bucket/prod", options=bucket.options)
    with pytest.raises(SetupError, match="must allow get_object"):
        _fetch_snapshot({"uri": "/before/small", "sha256": ""}, model="m", storage=closed, folder=tmp_path)


def diverge(lock: dict[str, Any]) -> None:
    lock["job"]["params"] |= {"learning_rate": 1e30}


def test_a_machine_that_differs_is_named_when_nothing_comes_out(
    again: Callable[..., tuple[Replay, list[str]]], trained: tuple[Package, Any]
) -> None:
    def change(lock: dict[str, Any]) -> None:
        diverge(lock)
        lock["machine"] |= {"device": "Difference Engine", "num_threads": "8"}

    found, _ = again(change)
    assert found.found is None
    device = trained[0].json(LOCK)["machine"]["device"]
    assert [str(one) for one in found.differences] == [f"machine's device: Difference Engine then, {device} now"]


def test_a_job_that_fails_where_nothing_differs_is_an_error(again: Callable[..., tuple[Replay, list[str]]]) -> None:
    with pytest.raises(TrainingError, match="got exit code 64, and no recorded input differs"):
        again(diverge)


def spoil(lock: dict[str, Any]) -> None:
    lock["packages"] |= {"torch": "1.0.0", "nowhere": "3.1"}
    lock["machine"] |= {"processor": "Abacus", "num_threads": "8", "world_size": "2, then 1"}
    lock["job"]["commit"] = "0123456-dirty-89ab"
    lock["training"]["learning_rate"] = 5


def test_what_differs_is_named_when_the_bytes_do(again: Callable[..., tuple[Replay, list[str]]]) -> None:
    found, _ = again(spoil, graph=b"another graph")
    assert found.found is not None
    assert not found.is_equal
    assert {str(difference) for difference in found.differences} == {
        f"package torch: 1.0.0 then, {versions(['torch'])['torch']} now",
        "package nowhere: 3.1 then, none now",
        f"machine's processor: Abacus then, {processor()} now",
        "machine's num_threads: 8 then, 1 now",
        "machine's world_size: 2, then 1 then, 1 now",
        f"commit: 0123456-dirty-89ab then, {COMMIT} now",
        "parameter learning_rate: 5 then, 0.01 now",
    }


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (lambda job: job["params"].update(heads=8), r"params of a training of .* got \['heads'\]\."),
        (lambda job: job.update(schema_version=9), "1 validation error for Job"),
    ],
    ids=["a parameter", "the file"],
)
def test_a_job_that_the_code_here_refuses_is_named(
    again: Callable[..., tuple[Replay, list[str]]], change: Callable[[dict[str, Any]], object], refused: str
) -> None:
    def of_another_release(lock: dict[str, Any]) -> None:
        lock["job"]["commit"] = "0123456-dirty-89ab"
        change(lock["job"])

    found, _ = again(of_another_release)
    commit, job_file = map(str, found.differences)
    assert (found.found, commit) == (None, f"commit: 0123456-dirty-89ab then, {COMMIT} now")
    assert re.match(f"job file: accepted then, refused: {refused}", job_file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lock: lock["job"]["snapshot"].update(uri="/nowhere"), "snapshot: /nowhere then, gone now"),
        (lambda lock: lock["job"]["snapshot"].update(sha256="0" * 64), f"snapshot's SHA-256: {'0' * 64} then, "),
    ],
)
def test_a_snapshot_that_is_not_there_any_more_is_named(
    again: Callable[..., tuple[Replay, list[str]]], change: Callable[[dict[str, Any]], object], said: str
) -> None:
    found, lines = again(change)
    assert (found.found, found.is_equal, lines) == (None, False, [])
    assert [str(difference)[: len(said)] for difference in found.differences] == [said]


def test_what_the_code_of_another_release_writes_is_read(
    again: Callable[..., tuple[Replay, list[str]]],
    trained: tuple[Package, Storage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = trained[0].files[FP32_GRAPH]

    def train(job_uri: str, **_how: object) -> int:
        result = {"schema_version": 3, "files": {GRAPH_FILE: wanted}, "of_another_release": True}
        write_bytes(
            job_uri.replace(JOB_FILE, RESULT_FILE), json.dumps(result).encode(), storage=Storage(root=str(tmp_path))
        )
        return 0

    monkeypatch.setattr(replay_module, "_train", train)
    found, _ = again()
    assert (found.is_equal, found.differences) == (True, ())


@pytest.mark.chaos
def test_a_lock_of_an_older_release_finds_the_job_in_its_folder(
    again: Callable[..., tuple[Replay, list[str]]], trained: tuple[Package, Storage]
) -> None:
    _, storage = trained

    def change(lock: dict[str, Any]) -> None:
        del lock["job"], lock["machine"]

    assert again(change)[0].is_equal
    shutil.rmtree(storage.root + "/jobs")
    with pytest.raises(NotFoundError, match=r"job\.json' must exist"):
        replay(_without_job(trained[0]), storage=storage, folder=Path(storage.root), say=print)


def _without_job(package: Package) -> Package:
    lock = package.json(LOCK)
    del lock["job"]
    folder = Path(package.uri).parent / "older"
    contents = {**package.contents, LOCK: json.dumps(lock).encode()}
    return write_package(str(folder), model=package.model, job_key="job", contents=contents)


HEX = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("now", "is_asked"), [("f00", True), ("bad", False)], ids=["models as they were", "changed models"]
)
def test_the_code_beside_models_of_another_folder_comes_from_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: str, is_asked: bool
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(replay_module, "_git", lambda *arguments: not asked.append(arguments))
    monkeypatch.setenv(VARIABLE, f"{HEX[::-1]}+models-{now}")
    monkeypatch.setenv("TRADEWIND_MODELS", "/models")
    with _code_of(f"{HEX}+models-f00", folder=tmp_path) as found:
        assert found == ((tmp_path, True) if is_asked else (REPO, False))
    assert [arguments[-1] for arguments in asked if arguments[1] == "add"] == [HEX] * is_asked
    assert "TRADEWIND_MODELS" in _environment_for(f"{HEX}+models-f00", is_from_git=True)


@pytest.mark.chaos
@pytest.mark.parametrize("models_now", [None, "elsewhere"], ids=["models here", "models elsewhere now"])
def test_the_versions_own_code_comes_from_git(
    again: Callable[..., tuple[Replay, list[str]]],
    models_now: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = subprocess.run(["git", "-C", str(REPO), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("needs a git checkout")
    if models_now:
        monkeypatch.setenv("TRADEWIND_MODELS", str(tmp_path / models_now))

    def change(lock: dict[str, Any]) -> None:
        lock["job"]["commit"] = head.stdout.strip()

    found, lines = again(change)
    assert found.is_equal, os.linesep.join(lines)
    assert not [difference for difference in found.differences if difference.name == "commit"]
    listed = subprocess.run(["git", "-C", str(REPO), "worktree", "list"], capture_output=True, text=True, check=True)
    assert "replay" not in listed.stdout
