"""A real lake, moved to moto's S3 server, where the stages then go on."""

from __future__ import annotations

import json
import socket
import subprocess
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.demo.flights import land_month
from include.drift.served import read_predictions
from include.errors import BadInputError, SetupError
from include.features.build import build_features
from include.features.materialize import materialize
from include.features.parity import check_parity
from include.features.store import OnlineStore, content_hash, online_path
from include.lake.files import read_bytes, send_file, write_bytes
from include.lake.ingest import ingest_partition
from include.lake.tables import content_hash as rows_hash
from include.lake.tables import current_version, read_table
from include.migration.lake import connection_of, move_lake, storage_from_environment
from include.runtime.home import Home
from include.runtime.secrets import load_secrets
from include.spec import load_spec
from include.training.snapshot import build_snapshot
from operators.hooks.lake import LakeHook
from tests.operators.test_ingest_on_s3 import SECRET, serve, stop
from tests.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.lake.storage import Storage

FIXTURE = Path(__file__).parents[2] / "upgrade" / "release-0.1.0.tar.xz"
SPEC = load_spec("flight_delays")
MONTHS = ("2013-01", "2013-02", "2013-03")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = int(listener.getsockname()[1])
    server = serve(free)
    yield free
    stop(server)


@pytest.fixture
def settings(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the object store as AWS's own programs are told."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "moto-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    found = Home(root=tmp_path / "home")
    found.prepare()
    load_secrets(found.secrets)
    return found


def quiet(_: str) -> None:
    """Say nothing."""


def table(storage: Storage, name: str, version: int | None = None) -> tuple[int, str]:
    uri = storage.table(SPEC.name, name)
    rows = read_table(uri=uri, storage_options=storage.options, version=version)
    return current_version(uri=uri, storage_options=storage.options), rows_hash(rows)


@pytest.mark.usefixtures("settings")
def test_a_lake_moves_with_its_history_and_the_stages_go_on_there(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    target = storage_from_environment("s3://tradewind/moved")
    local = home.storage
    online = content_hash(OnlineStore(path=online_path(local)), SPEC)

    moved = move_lake(home, target, say=quiet)

    names = sorted(path.name for path in Path(local.root, "lake", SPEC.name).iterdir())
    assert moved.num_tables == len(names)
    assert moved.num_sent == moved.num_files
    for name in names:
        assert table(target, name) == table(local, name)
    assert table(target, "flights", 0) == table(local, "flights", 0)
    landed = f"{target.landing(SPEC.name, MONTHS[0])}/flights.csv"
    assert read_bytes(landed, storage=target) == Path(local.landing(SPEC.name, MONTHS[0]), "flights.csv").read_bytes()

    said = connection_of(target, home=home)
    assert SECRET not in said
    lake = json.loads(said.replace("<access key>", "moto-key").replace("<secret key>", SECRET))
    monkeypatch.setenv("AIRFLOW_CONN_TRADEWIND_LAKE", json.dumps(lake))
    storage = LakeHook().get_conn()
    for month in MONTHS:
        commits = ingest_partition(spec=SPEC, storage=storage, partition=month)
        assert not any(commit.is_new for commit in commits.values())
    land_month(storage=storage, partition="2013-04", max_flights=60)
    ingest_partition(spec=SPEC, storage=storage, partition="2013-04")
    bring(storage, MONTHS[-1])
    assert content_hash(OnlineStore(path=online_path(storage)), SPEC) == online
    assert check_parity(spec=SPEC, storage=storage, partition=MONTHS[-1]).num_values > 0
    snapshots = [build_snapshot(spec=SPEC, storage=where, window=MONTHS[:2]).ref for where in (storage, local)]
    assert snapshots[0].uri.startswith("s3://tradewind/moved/snapshots/")
    assert snapshots[0].sha256 == snapshots[1].sha256
    examples = json.loads((home.root / "expected.json").read_text())["answers"][0]["columns"]["example_id"]
    assert read_predictions(spec=SPEC, storage=storage, example_ids=examples).num_rows == len(examples)


def bring(storage: Storage, month: str) -> None:
    at = datetime(2013, 4, 1, tzinfo=UTC)
    built = build_features(spec=SPEC, storage=storage, partition=month, published_at=at)
    assert set(built.versions.values()) == {len(MONTHS) - 1}  # as they were, no commit was made
    materialize(spec=SPEC, storage=storage, partition=month)


@pytest.mark.usefixtures("settings")
def test_a_move_that_was_cut_off_sends_the_rest_only(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    target, sent = storage_from_environment("s3://tradewind/cut"), list[str]()

    def cut(path: Path, uri: str, *, storage: Storage, sha256: str) -> bool:
        if len(sent) == 20:
            raise KeyboardInterrupt
        sent.append(uri)
        return send_file(path, uri, storage=storage, sha256=sha256)

    with monkeypatch.context() as patched:
        patched.setattr("include.migration.lake.send_file", cut)
        with pytest.raises(KeyboardInterrupt):
            move_lake(home, target, say=quiet)
    moved = move_lake(home, target, say=quiet)
    assert moved.num_sent == moved.num_files - 20
    with pytest.raises(SetupError, match="got a lake that was moved there, state 'moved'"):
        move_lake(home, target, say=quiet)


@pytest.mark.usefixtures("settings")
def test_a_prefix_of_others_is_not_touched(home: Home) -> None:
    target = storage_from_environment("s3://tradewind/theirs")
    write_bytes(f"{target.root}/kept", b"kept", storage=target)
    with pytest.raises(SetupError, match="must be empty to take a lake"):
        move_lake(home, target, say=quiet)
    assert read_bytes(f"{target.root}/kept", storage=target) == b"kept"


@pytest.mark.parametrize("text", ["s3://", "/srv/lake", "gs://bucket/lake"])
def test_a_place_that_is_no_bucket_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="must be s3://bucket/prefix"):
        storage_from_environment(text)


@pytest.mark.usefixtures("settings")
def test_the_command_says_what_to_set_without_the_credentials(home: Home) -> None:
    command = [str(ROOT / "tradewind"), "migrate", "--lake", "s3://tradewind/commanded", "--home", str(home.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    target = storage_from_environment("s3://tradewind/commanded")
    assert f"AIRFLOW_CONN_TRADEWIND_LAKE='{connection_of(target, home=home)}'" in done.stdout
    assert SECRET not in done.stdout + done.stderr + repr(target)
