from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from include.errors import BadInputError, TrainingError
from include.lake.storage import Storage
from include.training.commit import STAMP, VARIABLE, current_commit, stamp
from include.training.job import load_job
from include.training.submit import finished_job, submit_job
from tests.snapshots import COMMIT, SPEC, small_job, small_table, write_snapshot


@pytest.fixture
def snapshot(storage: Storage) -> dict[str, object]:
    return write_snapshot(storage, small_table(200)).model_dump(mode="json") | {"versions": {"flights": 3}}


def test_a_job_is_read_as_it_was_written(storage: Storage, snapshot: dict[str, object]) -> None:
    job = submit_job(spec=SPEC, snapshot=snapshot, overrides='{"max_epochs": 5, "dropout": null}', storage=storage)
    assert load_job(job.uri, storage=storage) == job
    assert (job.training.max_epochs, job.training.dropout) == (5, SPEC.training.dropout)
    assert (job.seed, job.commit, job.params) == (SPEC.training.seed, COMMIT, {"max_epochs": 5})
    assert job.key.startswith("2013-03-")


def test_what_decides_the_result_decides_the_key(storage: Storage, snapshot: dict[str, object], tmp_path: Path) -> None:
    def key(**changes: object) -> str:
        overrides = str(changes.pop("overrides", "{}"))
        root = changes.pop("storage", storage)
        assert isinstance(root, Storage)
        return submit_job(spec=SPEC, snapshot={**snapshot, **changes}, overrides=overrides, storage=root).key

    same = key()
    assert key() == same
    assert key(storage=Storage(root=str(tmp_path / "elsewhere"))) == same
    assert key(uri="/elsewhere") == same
    assert len({same, key(sha256="0" * 64), key(overrides='{"seed": 1}'), key(overrides='{"max_epochs": 5}')}) == 4


@pytest.mark.parametrize("overrides", ["", "[1]", "5", "{"])
def test_overrides_must_be_an_object(storage: Storage, snapshot: dict[str, object], overrides: str) -> None:
    with pytest.raises(BadInputError, match="must be a JSON object"):
        submit_job(spec=SPEC, snapshot=snapshot, overrides=overrides, storage=storage)


def test_an_override_outside_the_schema_is_refused_before_any_trainer_starts(
    storage: Storage, snapshot: dict[str, object]
) -> None:
    with pytest.raises(BadInputError, match="batch_size: Input should be greater than 0"):
        submit_job(spec=SPEC, snapshot=snapshot, overrides='{"batch_size": 0}', storage=storage)
    assert not Path(storage.root, "jobs").exists()


@pytest.mark.parametrize("spoiled", [{}, {"uri": "x"}, {"sha256": "short"}])
def test_a_snapshot_that_is_none_is_refused(
    storage: Storage, snapshot: dict[str, object], spoiled: dict[str, object]
) -> None:
    given = {**snapshot, **spoiled} if "sha256" in spoiled else spoiled
    with pytest.raises(BadInputError, match="needs the snapshot that its first task wrote"):
        submit_job(spec=SPEC, snapshot=given, overrides="{}", storage=storage)


def test_a_job_without_a_result_is_not_finished(storage: Storage) -> None:
    with pytest.raises(TrainingError, match=r"must leave a whole result\.json; got none"):
        finished_job(small_job(storage), storage=storage)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a git repository with one committed file, `include/code.py`."""
    monkeypatch.delenv(VARIABLE)
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "code.py").write_text("a = 1\n")
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "First")
    return tmp_path


def test_a_commit_names_the_working_tree_too(repository: Path) -> None:
    code, head = repository / "include", git(repository, "rev-parse", "HEAD")
    assert current_commit(code) == head
    (code / "code.py").write_text("a = 2\n")
    dirty = current_commit(code)
    assert dirty.startswith(f"{head}-dirty-")
    (code / "code.py").write_text("a = 3\n")
    assert current_commit(code) != dirty


def test_a_commit_names_files_that_git_does_not_track_yet(repository: Path) -> None:
    code, head = repository / "include", git(repository, "rev-parse", "HEAD")
    (code / "code.pyc").write_text("ignored")
    (repository / "notes.py").write_text("outside the code")
    assert current_commit(code) == head
    network = code / "models" / "copied \u00e4" / "network.py"
    network.parent.mkdir(parents=True)
    network.write_text("WIDTH = 1\n")
    copied = current_commit(code)
    assert copied.startswith(f"{head}-dirty-")
    network.write_text("WIDTH = 2\n")
    edited = current_commit(code)
    network.rename(network.with_name("other.py"))
    assert len({copied, edited, current_commit(code)}) == 3
    network.with_name("other.py").unlink()
    assert current_commit(code) == head


def test_a_link_to_a_folder_is_no_file_of_the_code(repository: Path) -> None:
    (repository / "include" / "link").symlink_to(repository)
    assert "-dirty-" in current_commit(repository / "include")


@pytest.mark.parametrize("reason", ["missing", "no repository", "no commit", "nothing tracked", "refused"])
def test_without_git_the_contents_are_the_commit(
    repository: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    code = repository / "include"
    if reason == "missing":
        monkeypatch.setenv("PATH", str(repository))
    elif reason == "refused":
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git then finds the ownership dubious
    elif reason == "nothing tracked":
        git(repository, "rm", "-q", "-r", "--cached", "include")
        (repository / ".gitignore").write_text("include\n")
        git(repository, "commit", "-q", "-a", "-m", "Second")
    else:
        shutil.rmtree(repository / ".git")
        if reason == "no commit":
            git(repository, "init", "-q")
    first = current_commit(code)
    assert re.fullmatch("no-git-[0-9a-f]{12}", first)
    (code / "notes.txt").write_text("no code")
    assert current_commit(code) == first
    (code / "models").mkdir()
    (code / "models" / "model.yaml").write_text("a: 1\n")
    second = current_commit(code)
    (code / "code.py").write_text("a = 2\n")
    assert len({first, second, current_commit(code)}) == 3


def test_an_image_is_stamped_with_its_commit_and_what_is_laid_over_it_shows(repository: Path) -> None:
    code, head = repository / "include", git(repository, "rev-parse", "HEAD")
    shutil.rmtree(repository / ".git")
    stamp(head, code)
    assert current_commit(code) == head
    (code / "code.py").write_text("a = 2\n")
    changed = current_commit(code)
    assert re.fullmatch(f"{head}-changed-[0-9a-f]{{12}}", changed)
    (code / "mounted.yaml").write_text("a: 1\n")
    assert current_commit(code) not in (head, changed)


@pytest.mark.parametrize("commit", ["", "two words", "a\n"])
def test_an_image_is_not_stamped_with_what_is_no_commit(repository: Path, commit: str) -> None:
    with pytest.raises(BadInputError, match="commit must be what"):
        stamp(commit, repository / "include")
    assert not (repository / "include" / STAMP).exists()


def test_a_commit_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "abc")
    assert current_commit() == "abc"
