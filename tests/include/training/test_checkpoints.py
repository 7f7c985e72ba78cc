"""Checkpoints on a disk and in an object store: complete or absent, whatever ends their writer."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from include.errors import BadInputError, CorruptArtifactError, ServiceError, SetupError
from include.lake.files import delete_file, list_files, write_bytes
from include.lake.storage import Storage
from include.training.checkpoint_writer import CheckpointWriter
from include.training.checkpoints import MANIFEST, Checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PORT_OF_NOTHING = "http://127.0.0.1:9"


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, storage: Storage) -> Storage:
    return storage if request.param == "disk" else request.getfixturevalue("bucket")


def of(storage: Storage, name: str = "one", *, job_hash: str = "a" * 64, num_kept: int = 2) -> Checkpoints:
    uri = f"{storage.root}/jobs/{name}/checkpoints"
    return Checkpoints(uri=uri, job_hash=job_hash, storage=storage, model="tiny", num_kept=num_kept)


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": {"a": torch.full((1000,), float(step))}, "random": [torch.get_rng_state()]}


def is_whole(found: tuple[int, dict[str, Any]]) -> bool:
    step, loaded = found
    return loaded["step"] == step and torch.equal(loaded["weights"]["a"], torch.full((1000,), float(step)))


def said_when_passed_over(checkpoints: Checkpoints) -> list[str]:
    """Load the newest whole checkpoint, which must be that of step 7, and return what was said meanwhile."""
    said: list[str] = []
    found = checkpoints.load_newest(say=said.append)
    assert found is not None
    assert found[0] == 7
    assert is_whole(found)
    return said


def test_the_newest_is_found_and_only_so_many_are_kept(place: Storage) -> None:
    checkpoints = of(place, "kept", num_kept=3)
    assert checkpoints.load_newest() is None
    assert checkpoints.newest_uri() is None
    for step in (5, 10, 15, 20, 100):
        checkpoints.save(step, state(step))
    assert checkpoints.steps() == [15, 20, 100]
    assert checkpoints.newest_uri() == f"{checkpoints.uri}/0000000100"
    assert {name.split("/")[0] for name in list_files(checkpoints.uri, storage=place)} == {
        "0000000015",
        "0000000020",
        "0000000100",
    }
    found = checkpoints.load_newest()
    assert found is not None
    assert found[0] == 100
    assert is_whole(found)


def test_an_older_writer_deletes_nothing_newer(storage: Storage) -> None:
    newer, older = of(storage, num_kept=1), of(storage, num_kept=1)
    newer.save(100, state(100))
    older.save(50, state(50))
    assert newer.steps() == [100]


@pytest.mark.parametrize("damage", ["no manifest", "no state", "half a state", "half a manifest", "another state"])
def test_a_damaged_newest_one_is_passed_over_and_said(place: Storage, damage: str) -> None:
    checkpoints = of(place, damage.replace(" ", "-"))
    for step in (7, 8):
        checkpoints.save(step, state(step))
    newest = f"{checkpoints.uri}/0000000008"
    (file,) = (name for name in list_files(newest, storage=place) if name != MANIFEST)
    name = MANIFEST if "manifest" in damage else file
    if damage.startswith("no "):
        delete_file(f"{newest}/{name}", storage=place)
    else:
        write_bytes(f"{newest}/{name}", b'{"model": "ti', storage=place)
    said = said_when_passed_over(checkpoints)
    told = "" if damage == "no manifest" else "It is passed over for the one before."
    assert told in "".join(said)
    assert len(said) == (damage != "no manifest")
    checkpoints.save(9, state(9))
    assert checkpoints.steps() == [7, 9], "a damaged one takes no whole one's place"


def test_a_large_state_is_written_in_parts(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.training.checkpoints._PART_BYTES", 4000)
    checkpoints = of(place, "parts")
    checkpoints.save(1, state(1))
    assert len(list_files(checkpoints.uri, storage=place)) > 2
    found = checkpoints.load_newest()
    assert found is not None
    assert is_whole(found)


def test_a_checkpoint_that_is_written_again_is_whole_at_every_moment(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = of(storage)
    checkpoints.save(1, state(1))

    def fail(*_arguments: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    for num_written in (0, 1):
        left = [write_bytes] * num_written
        writes = iter([*left, fail])
        monkeypatch.setattr("include.training.checkpoints.write_bytes", lambda *a, w=writes, **k: next(w)(*a, **k))
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(1, {**state(1), "more": num_written})
        found = checkpoints.load_newest()
        assert found is not None
        assert is_whole(found)


def test_half_a_checkpoint_is_taken_away(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = of(storage)
    checkpoints.save(1, state(1))
    written: list[str] = []

    def fill_up(uri: str, content: bytes, **more: Any) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(uri)
        write_bytes(uri, content, **more)

    monkeypatch.setattr("include.training.checkpoints._PART_BYTES", 4000)
    monkeypatch.setattr("include.training.checkpoints.write_bytes", fill_up)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, state(2))
    assert written
    assert {path.name for path in Path(checkpoints.uri).iterdir()} == {"0000000001"}
    assert checkpoints.steps() == [1]


def test_the_checkpoints_of_another_job_are_refused(place: Storage) -> None:
    of(place, "other").save(3, state(3))
    with pytest.raises(BadInputError, match=r"must be of job b{12} of 'tiny'; got those of job a{12} of 'tiny'"):
        of(place, "other", job_hash="b" * 64).load_newest()


def test_a_step_that_is_not_there_is_corrupt(storage: Storage) -> None:
    with pytest.raises(CorruptArtifactError, match="must hold the files that its manifest names"):
        of(storage).load(4)


def test_no_code_in_a_checkpoint_is_run(storage: Storage, tmp_path: Path) -> None:
    import hashlib
    from io import BytesIO

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "evil"),)

    sink = BytesIO()
    torch.save({"state": Evil()}, sink)
    checkpoints = of(storage, "evil")
    checkpoints.save(1, state(1))
    folder = Path(checkpoints.uri, "0000000001")
    manifest = json.loads((folder / MANIFEST).read_text())
    (name,) = manifest["files"]
    (folder / name).write_bytes(sink.getvalue())
    manifest["files"][name] = hashlib.sha256(sink.getvalue()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoints.load_newest()
    assert not (tmp_path / "evil").exists()


def test_sigkill_at_any_moment_leaves_whole_checkpoints(storage: Storage) -> None:
    checkpoints = of(storage, "killed")
    newest = 0
    delays_s = (0.003, 0.011, 0.02, 0.027, 0.041, 0.06, 0.083, 0.1)
    longer_s = (delays_s[-1] * 2**number for number in range(1, 9))
    for delay_s in itertools.chain(delays_s, longer_s):
        if delay_s > delays_s[-1] and newest:
            break
        child = os.fork()
        if not child:
            step = newest
            while True:
                step += 1
                checkpoints.save(step, state(step))
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said: list[str] = []
        found = checkpoints.load_newest(say=said.append)
        assert said == []
        if found is None:
            assert newest == 0
            continue
        assert is_whole(found)
        assert found[0] >= newest
        newest = found[0]
    assert newest > 0
    checkpoints.save(newest + 1, state(newest + 1))
    assert len({name.split("/")[0] for name in list_files(checkpoints.uri, storage=storage)}) == 2, "no rubbish stays"


@dataclass(frozen=True, kw_only=True)
class Gated(Checkpoints):
    """Writes when it is let to, and knows how many write at once."""

    may_write: threading.Event = field(default_factory=threading.Event)
    written: list[int] = field(default_factory=list)

    def save(self, step: int, state: Mapping[str, Any], *, say: Callable[[str], None] = print) -> None:
        assert self.may_write.wait(10)
        super().save(step, state, say=say)
        self.written.append(step)


def test_training_goes_on_while_a_copy_is_written(storage: Storage) -> None:
    checkpoints = Gated(uri=f"{storage.root}/slow", job_hash="a" * 64, storage=storage)
    weights = torch.zeros(1000)
    with CheckpointWriter(checkpoints, newest=None, say=print) as writer:
        writer.save_soon(1, {"step": 1, "weights": {"a": weights.add_(1)}})
        weights.add_(41)  # the next step
        assert writer.is_busy
        assert checkpoints.written == []
        checkpoints.may_write.set()
    assert checkpoints.written == [1]
    found = checkpoints.load_newest()
    assert found is not None
    assert is_whole(found)


def test_an_error_of_the_code_in_the_other_thread_ends_the_training(storage: Storage) -> None:
    with (
        pytest.raises(AttributeError, match="local object"),
        CheckpointWriter(of(storage), newest=None, say=print) as writer,
    ):
        writer.save_soon(1, {"step": lambda: 1})


def test_a_silent_object_store_costs_the_checkpoint_alone() -> None:
    options = {"AWS_ENDPOINT_URL": PORT_OF_NOTHING, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "k"}
    storage = Storage(root="s3://lake/prod", options={**options, "AWS_SECRET_ACCESS_KEY": "s"})
    said: list[str] = []
    with CheckpointWriter(of(storage), newest=7, say=said.append) as writer:
        assert writer.save_now(9, state(9)) == "its checkpoint could not be saved, the newest is of step 7"
    assert "warning: the checkpoint of step 9 could not be written, training goes on: object store must" in said[0]


@pytest.fixture(params=[SetupError("policy"), ServiceError("silent"), PermissionError(13, "denied")], ids=str)
def refuse_to_delete(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_more: object) -> None:
        raise request.param

    monkeypatch.setattr("include.training.checkpoints.delete_file", refuse)


@pytest.mark.usefixtures("refuse_to_delete")
def test_a_storage_that_lets_nothing_be_deleted_costs_no_checkpoint(place: Storage, request: Any) -> None:
    checkpoints = of(place, request.node.name)
    said: list[str] = []
    with CheckpointWriter(checkpoints, newest=None, say=said.append) as writer:
        for step in (1, 2, 3, 4):
            assert writer.save_now(step, state(step)) == "a checkpoint is saved"
    assert checkpoints.steps() == [1, 2, 3, 4]
    (line,) = said
    assert line.startswith("warning: checkpoints before the 2 newest could not be deleted, they are kept: ")


@pytest.mark.usefixtures("refuse_to_delete")
def test_a_damaged_one_that_cannot_be_deleted_is_passed_over_as_any(place: Storage, request: Any) -> None:
    checkpoints = of(place, request.node.name)
    for step in (7, 8):
        checkpoints.save(step, state(step))
    newest = f"{checkpoints.uri}/0000000008"
    write_bytes(f"{newest}/{MANIFEST}", b"{", storage=place)
    said = said_when_passed_over(checkpoints)
    assert "It is passed over for the one before." in said[0]
    assert said[1].startswith(
        f"warning: '{newest}/{MANIFEST}' of a damaged checkpoint could not be deleted, it is kept"
    )
