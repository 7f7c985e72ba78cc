from __future__ import annotations

import itertools
import json
import os
import sqlite3
import stat
import subprocess
import tarfile
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from include import __version__
from include.backup.archive import read_header, verify_archive, write_archive
from include.backup.create import create_backup
from include.backup.restore import restore_backup
from include.errors import CorruptArtifactError, SetupError
from include.lake.tables import read_table
from include.registry.package import read_package
from include.runtime import processes, stack
from include.runtime.databases import databases_of
from include.runtime.home import Home
from include.serving.versions import load_version
from tests.include.backup.conftest import MODEL, open_small
from tests.running import ROOT
from tests.tiny_models import SPEC, request_columns

if TYPE_CHECKING:
    from tests.include.backup.conftest import SmallDeployment


def quiet(_: str) -> None:
    """Say nothing."""


def test_what_was_destroyed_is_back_in_another_folder(small: SmallDeployment, short_tmp_path: Path) -> None:
    small.write_month(2)
    before = small.contents()
    archive = short_tmp_path / "backups" / "one.tar.zst"
    made = create_backup(small.deployment, archive, say=quiet)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert made.num_tables == 2
    small.stop()

    restore_backup(archive, short_tmp_path / "other", say=quiet)

    other = open_small(short_tmp_path / "other")
    assert other.contents() == before
    assert not other.deployment.home.restoring.exists()
    for file in other.deployment.home.secrets.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(other.deployment.home.secrets.stat().st_mode) == 0o700
    package = json.loads((other.root / "serving" / "router.json").read_text())["models"][MODEL]["versions"]["2"]
    served = load_version(spec=SPEC, version="2", uri=package["uri"], digest=package["digest"])
    assert Path(served.uri).is_relative_to(other.root)
    columns = {**request_columns(3), **dict.fromkeys(SPEC.features.store_fields, [0.5] * 3)}
    assert served.score({n: columns[n] for n in (*SPEC.features.categorical, *SPEC.features.numeric)}).shape == (3,)
    assert str(small.root) not in str(other.rows("airflow", "done") + other.rows("mlflow", "versions"))
    assert "ROOT/mlflow" in str(other.rows("mlflow", "versions"))
    other.write_month(3)
    assert other.ledger.verify() == 3


def test_a_backup_of_what_is_written_meanwhile_names_nothing_that_it_lacks(
    small: SmallDeployment, short_tmp_path: Path
) -> None:
    ended, written = threading.Event(), itertools.count(2)

    def work() -> None:
        while not ended.is_set():
            small.write_month(next(written))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        create_backup(small.deployment, short_tmp_path / "a.tar.zst", say=quiet)
    finally:
        ended.set()
        worker.join()
    num_written = next(written) - 1
    small.stop()

    restore_backup(short_tmp_path / "a.tar.zst", short_tmp_path / "restored", say=quiet)

    restored = open_small(short_tmp_path / "restored")
    storage = restored.storage
    done = {item["month"] for (item,) in databases_of(restored.deployment)["airflow"].query("SELECT value FROM done")}
    champions = {entry.subject for entry in restored.ledger.entries()}
    packages = json.loads(restored.deployment.home.routes.read_text())["models"][MODEL]["versions"]
    months = set(read_table(uri=storage.table(MODEL, "flights"), storage_options={})["partition"].to_pylist())
    landed = {path.name for path in Path(storage.landing(MODEL)).iterdir()}
    assert 1 <= len(done) <= len(champions) <= len(packages) <= len(months) <= len(landed)
    assert len(done) < num_written
    assert champions <= set(packages)
    assert done <= months <= landed
    for package in packages.values():
        assert read_package(package["uri"]).digest == package["digest"]


def test_a_stopped_deployment_stays_stopped_and_a_killed_restore_begins_anew(
    small: SmallDeployment, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = small.contents()
    small.stop()
    archive, root = short_tmp_path / "a.tar.zst", short_tmp_path / "other"
    said = run("backup", str(archive), "--home", str(small.root))
    assert f"{archive}\n" in said
    assert "2 tables, 1 entries of the ledger" in said
    assert processes.find(small.deployment.home.pids) == []

    def power_cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("include.backup.restore.relocate_database", power_cut)
        with pytest.raises(KeyboardInterrupt):
            restore_backup(archive, root, say=quiet)
    with pytest.raises(SetupError, match="must be whole; got one that a restore has not finished"):
        stack.open_deployment(root, ports=stack.free_ports())
    with pytest.raises(SetupError, match="or half of one"):
        Home(root=root).require_made()

    said = run("restore", str(archive), "--home", str(root))

    assert f"TRADEWIND_HOME={root} make up" in said
    assert processes.find(Home(root=root).pids) == []
    assert open_small(root).contents() == before


def run(*arguments: str) -> str:
    """Run ./tradewind and return what it printed."""
    command = [str(ROOT / "tradewind"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_broken_is_not_backed_up(small: SmallDeployment, short_tmp_path: Path) -> None:
    package = small.deployment.home.mlflow / "1/run1/artifacts/package/package.json"
    package.rename(package.with_name("away"))
    with pytest.raises(CorruptArtifactError, match=f"version 1 of {MODEL!r}, .* must have its package"):
        create_backup(small.deployment, short_tmp_path / "a.tar.zst", say=quiet)
    package.with_name("away").rename(package)
    with closing(sqlite3.connect(small.deployment.home.ledger)) as connection, connection:
        connection.execute("DROP TRIGGER entries_never_change")
        connection.execute("UPDATE entries SET body = replace(body, 'test', 'else')")
    with pytest.raises(CorruptArtifactError, match="is not as it was written"):
        create_backup(small.deployment, short_tmp_path / "a.tar.zst", say=quiet)
    assert not [path for path in short_tmp_path.iterdir() if "tar" in path.name or "backup" in path.name]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar.zst"
    with write_archive(path, header={"format": 1, "release": __version__, "home": "/srv/old"}) as writer:
        writer.add_bytes("home/one", b"1" * 70_000)
        writer.add_bytes("home/two", bytes(range(256)) * 300)
    return path


def test_an_archive_is_read_by_ordinary_programs(archive: Path, tmp_path: Path) -> None:
    assert verify_archive(archive, into=tmp_path / "out") == 3
    with pa.input_stream(str(archive), compression="zstd") as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        *names, sums = tar.getnames()
    assert (names, sums) == (["backup.json", "home/one", "home/two"], "SHA256SUMS")


@pytest.mark.parametrize("cut", [0, 40, -1])
def test_a_cut_archive_is_refused(archive: Path, tmp_path: Path, cut: int) -> None:
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(CorruptArtifactError, match="is damaged: it must be readable to its end"):
        restore_backup(archive, tmp_path / "home", say=quiet)
    assert not (tmp_path / "home").exists()


def test_a_damaged_file_is_named(archive: Path, tmp_path: Path) -> None:
    with pa.CompressedInputStream(pa.OSFile(str(archive)), "zstd") as stream:
        plain = stream.read()
    with pa.OSFile(str(archive), "w") as file, pa.CompressedOutputStream(file, "zstd") as packed:
        packed.write(plain.replace(b"1" * 100, b"1" * 99 + b"2", 1))
    with pytest.raises(CorruptArtifactError, match="file 'home/one' must have the SHA-256 of SHA256SUMS; it differs"):
        restore_backup(archive, tmp_path / "home", say=quiet)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/outside"])
def test_an_archive_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tar.zst"
    with (
        pytest.raises(CorruptArtifactError, match="must be a plain file below the archive's root"),
        write_archive(path, header={"format": 1}) as writer,
    ):
        writer.add_bytes(name, b"x")
    assert not path.exists()


def test_a_newer_release_and_a_used_home_are_refused(archive: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.tar.zst"
    with write_archive(newer, header={"format": 1, "release": "99.0.0", "home": "/srv/old"}):
        pass
    with pytest.raises(SetupError, match=f"must come from release {__version__} or an older one; got 99.0.0"):
        restore_backup(newer, tmp_path / "home", say=quiet)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "kept").write_text("kept")
    with pytest.raises(SetupError, match="must be empty to be restored into; got kept"):
        restore_backup(archive, tmp_path / "used", say=quiet)
    assert (tmp_path / "used" / "kept").read_text() == "kept"
    with pytest.raises(SetupError, match="both paths consist of letters, digits"):
        restore_backup(archive, tmp_path / "with space", say=quiet)


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    deployment = stack.open_deployment(tmp_path / "home", ports=stack.free_ports())
    (tmp_path / "a").write_text("kept")
    with pytest.raises(SetupError, match="must be a new file"):
        create_backup(deployment, tmp_path / "a", say=quiet)
    assert (tmp_path / "a").read_text() == "kept"
    with pytest.raises(CorruptArtifactError, match="is damaged"):
        read_header(tmp_path / "a")
