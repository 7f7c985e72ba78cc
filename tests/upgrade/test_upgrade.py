"""What release 0.1.0 wrote is read, served, monitored and restored by today's code; make_fixture.py wrote it then."""

from __future__ import annotations

import json
import shutil
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
import yaml

from include.backup.create import create_backup
from include.backup.relocate import relocate_files
from include.backup.restore import restore_backup
from include.drift.champion import describe
from include.drift.monitor import TABLE, measure_partition, write_performance
from include.errors import SpecError
from include.features.build import build_features
from include.features.materialize import materialize
from include.features.store import OnlineStore, content_hash, online_path
from include.lake.ingest import ingest_partition
from include.lake.tables import content_hash as rows_hash
from include.lake.tables import current_version, read_table
from include.registry.models import ModelVersion
from include.rollout.history import champion_of, former_champion
from include.rollout.ledger import Ledger
from include.runtime import processes
from include.runtime.home import Home
from include.runtime.secrets import load_secrets
from include.runtime.services import Deployment, Ports
from include.spec import load_spec
from include.spec.load import parse_spec
from include.spec.migrate import migrate
from tests.running import RunningModelServer

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURE = Path(__file__).with_name("release-0.1.0.tar.xz")
OLD_ROOT = "/tmp/tradewind-0.1.0"
SPEC = load_spec("flight_delays")
MONTHS = ("2013-01", "2013-02")
SERVED = "2013-03"


@pytest.fixture
def home(short_tmp_path: Path) -> Home:
    """Return a home with the files of then; they name it by its path of today."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(short_tmp_path, filter="data")
    found = Home(root=short_tmp_path / "home")
    found.prepare()
    assert relocate_files(found, old=OLD_ROOT) == 1
    return found


def expected(home: Home) -> dict[str, Any]:
    return dict(json.loads((home.root / "expected.json").read_text()))


def rows(home: Home, table: str) -> dict[str, Any]:
    uri = home.storage.table(SPEC.name, table)
    version = current_version(uri=uri, storage_options={})
    return {"version": version, "rows": rows_hash(read_table(uri=uri, storage_options={}))}


def test_the_ledger_goes_on(home: Home) -> None:
    ledger = Ledger(path=home.ledger)
    assert ledger.verify() == 3
    assert [entry.hash for entry in ledger.entries()] == expected(home)["ledger"]
    assert (champion_of(ledger, SPEC.name), former_champion(ledger, SPEC.name)) == ("2", "1")
    ledger.append(model=SPEC.name, kind="alert", subject="2", evidence={}, actor="test", key="new")
    assert ledger.verify(expected_head=expected(home)["ledger"][-1]) == 4


def test_stages_find_the_partitions_as_they_would_write_them(home: Home) -> None:
    for month in (*MONTHS, SERVED):
        commits = ingest_partition(spec=SPEC, storage=home.storage, partition=month)
        assert not any(commit.is_new for commit in commits.values())
        build_features(spec=SPEC, storage=home.storage, partition=month, published_at=datetime(2013, 4, 1, tzinfo=UTC))
        materialize(spec=SPEC, storage=home.storage, partition=month)
    wanted = expected(home)
    assert {name: rows(home, name) for name in wanted["tables"]} == wanted["tables"]
    assert content_hash(OnlineStore(path=online_path(home.storage)), SPEC) == wanted["online"]


@pytest.fixture
def server(home: Home) -> Iterator[RunningModelServer]:
    """Run today's model server on the routes, packages, online store and prediction log of then."""
    (home.root / "state").symlink_to(home.serving)
    running = RunningModelServer(folder=home.root, storage=home.storage)
    running.start()
    yield running
    running.stop()


def test_the_same_answers_are_given_and_logged_beside_the_old_ones(home: Home, server: RunningModelServer) -> None:
    asked = expected(home)["answers"]
    for item in asked:
        answer = server.client.infer(model=SPEC.name, columns=item["columns"], sticky_key=item["sticky_key"])
        then = item["answer"]
        assert (answer["model_version"], answer["outputs"]) == (then["model_version"], then["outputs"])
    server.client.flush()
    files = sorted(Path(home.storage.predictions(SPEC.name)).glob("*.parquet"))
    assert {pq.read_schema(file).names[4] for file in files} <= {"probability", "prediction"}
    assert sum(pq.read_metadata(file).num_rows for file in files) == 2 * 120
    champion = _champion(home)
    both = measure_partition(spec=SPEC, storage=home.storage, partition=SERVED, champion=champion)
    assert both.champion is not None
    assert both.champion.num_predictions == expected(home)["measured"]["num_predictions"]  # the newest of each example


def _champion(home: Home) -> Any:
    package = home.mlflow / "1" / "run2" / "artifacts" / "package"
    digest = json.loads((package / "package.json").read_text())["digest"]
    tags = {"window_start": MONTHS[0], "window_end": MONTHS[-1], "digest": digest}
    version = ModelVersion(name=SPEC.name, version="2", source=str(package), run_id="run2", tags=tags)
    return describe(version, storage=home.storage)


def test_the_month_that_was_served_then_is_measured_as_then(home: Home) -> None:
    champion = _champion(home)
    found = measure_partition(spec=SPEC, storage=home.storage, partition=SERVED, champion=champion)
    wanted = expected(home)["measured"]
    assert found.champion is not None
    assert found.champion.num_predictions == wanted["num_predictions"]
    assert found.champion.loss == pytest.approx(wanted["log_loss"], abs=1e-12)
    assert found.inputs
    uri = home.storage.table(SPEC.name, TABLE)
    before = read_table(uri=uri, storage_options={}).to_pylist()
    write_performance(spec=SPEC, storage=home.storage, measurement=found, champion=champion)
    after = read_table(uri=uri, storage_options={}).to_pylist()
    assert before
    for row, former in zip(after, before, strict=True):
        assert row == pytest.approx(former, abs=1e-12)


def test_its_model_yaml_becomes_todays(home: Home) -> None:
    """Gates, canary, drift, retraining: what decided then decides now, the cron of the months included."""
    path = Path(SPEC.name) / "model.yaml"
    old = (home.root / "model.yaml").read_text()
    with pytest.raises(SpecError, match=f"check --fix {SPEC.name}"):
        parse_spec(old, path=path)
    new = parse_spec(migrate(old, path=path), path=path)
    before = yaml.safe_load(old)
    assert new.gates.max_loss_increase_vs_champion == before["gates"]["max_log_loss_increase_vs_champion"]
    assert new.retraining.min_loss_increase == before["retraining"]["min_log_loss_increase"]
    assert new.source.grain == "month"
    assert new.source.cron == "0 0 1 * *"
    changed = {"source": {"cron"}, "rollout": True}  # decided by evidence since
    but: dict[str, Any] = {"owner": True, "description": True, **changed}
    assert new.model_dump(exclude=but) == SPEC.model_dump(exclude=but)


def test_it_is_backed_up_and_restored(home: Home, short_tmp_path: Path) -> None:
    deployment = Deployment(home=home, secrets=load_secrets(home.secrets), ports=Ports())
    create_backup(deployment, short_tmp_path / "a.tar.zst", say=lambda _: None)
    wanted = expected(home)
    shutil.rmtree(home.root)

    restored = restore_backup(short_tmp_path / "a.tar.zst", short_tmp_path / "new", say=lambda _: None)

    new = Home(root=short_tmp_path / "new")
    assert (restored.num_ledger_entries, restored.num_tables) == (3, len(wanted["tables"]))
    assert {name: rows(new, name) for name in wanted["tables"]} == wanted["tables"]
    assert content_hash(OnlineStore(path=online_path(new.storage)), SPEC) == wanted["online"]
    assert processes.find(new.pids) == []
