"""Stages by hand: the operators themselves, on real flights."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from include.cli.app import app
from include.cli.scratch import make_scratch
from include.cli.stages import STAGES, Reach, chain
from include.demo.flights import land_month
from include.features.examples import feature_table
from include.lake.tables import current_version, table_exists
from include.retraining.record import KIND
from include.rollout.ledger import Ledger
from include.runtime.home import REPO
from include.spec import load_spec
from operators.by_hand import AFTER_ANOTHER, ON_PARTITION
from tests.flights import publish_month

if TYPE_CHECKING:
    from pathlib import Path

    from include.lake.storage import Storage
    from include.runtime.home import Home
    from tests.running import RolloutWorld

MODEL = "flight_delays"
SPEC = load_spec(MODEL)
MONTH = "2013-01"


def tradewind(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "include.cli", *arguments]
    return subprocess.run(command, cwd=REPO, input=text, capture_output=True, text=True, check=False)


def run(*arguments: str, home: Home) -> dict[str, Any]:
    done = tradewind("run", *arguments, "--home", str(home.root))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def tables(storage: Storage) -> dict[str, int]:
    """Return the version of each feature table that is there."""
    uris = {name: storage.table(MODEL, feature_table(name)) for name in SPEC.features.store}
    found = [name for name, uri in uris.items() if table_exists(uri=uri, storage_options={})]
    return {name: current_version(uri=uris[name], storage_options={}) for name in found}


def test_every_stage_has_its_operator() -> None:
    assert set(STAGES) == {*ON_PARTITION, *AFTER_ANOTHER, "rollback"}


def test_a_stage_runs_after_those_whose_results_it_needs() -> None:
    assert chain("register") == ("snapshot", "train", "evaluate", "compress", "register")
    assert chain("parity") == ("parity",)


def test_ingests_into_a_lake_of_its_own_without_any_deployment(storage: Storage, tmp_path: Path) -> None:
    land_month(storage=storage, partition=MONTH, max_flights=200)
    nowhere = tmp_path / "nowhere"

    done = tradewind("run", "ingest", MODEL, "-p", MONTH, "--lake", storage.root, "--home", str(nowhere))

    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert (manifest["partition"], manifest["tables"]["flights"]["num_rows"]) == (MONTH, 200)
    assert f"Lake: {storage.root}" in done.stderr
    assert not nowhere.exists()


def test_a_scratch_lake_takes_what_the_stage_writes(home: Home) -> None:
    publish_month(spec=SPEC, storage=home.storage, partition=MONTH, num_flights=300)

    manifest = run("features", MODEL, "--partition", MONTH, "--scratch", home=home)

    assert manifest["num_entities"]["origin_lateness"] == 3
    assert tables(home.storage) == {}
    (scratch,) = (home.root / "scratch").iterdir()
    assert (scratch / "lake" / MODEL / "features_origin_lateness").is_dir()


def test_a_scratch_lake_shares_files_and_changes_none(home: Home) -> None:
    publish_month(spec=SPEC, storage=home.storage, partition=MONTH, num_flights=50)
    uri = home.storage.table(MODEL, "flights")

    scratch = make_scratch(home.storage, model=MODEL, below=home.root / "scratch")
    publish_month(spec=SPEC, storage=scratch, partition=MONTH, num_flights=60)

    assert current_version(uri=uri, storage_options={}) == 0
    assert current_version(uri=scratch.table(MODEL, "flights"), storage_options={}) == 1
    names = {path.name: path.stat().st_ino for path in (home.data / "lake" / MODEL / "flights").rglob("*.parquet")}
    shared = {path.name: path.stat().st_ino for path in home.root.glob("scratch/*/lake/*/flights/**/*.parquet")}
    assert names.items() <= shared.items()


def test_a_decision_is_recorded_only_on_request(
    home: Home, rollout_world: RolloutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_TRADEWIND_LAKE")
    publish_month(spec=SPEC, storage=home.storage, partition=MONTH, num_flights=50)
    ledger = Ledger(path=home.ledger)

    tried = run("monitor", MODEL, "-p", MONTH, home=home)
    assert (tried["verdict"], ledger.entries(MODEL, KIND)) == ("keep", [])

    recorded = run("monitor", MODEL, "-p", MONTH, "--yes", home=home)
    (entry,) = ledger.entries(MODEL, KIND)
    assert recorded == tried | {"ledger_seq": entry.seq}
    assert "by-hand:" in entry.actor


@pytest.mark.parametrize("stage", [name for name, stage in STAGES.items() if stage.reach is Reach.SERVING])
def test_what_serves_changes_only_on_request(home: Home, stage: str) -> None:
    done = CliRunner().invoke(app, ["run", stage, MODEL, "-p", MONTH, "--home", str(home.root)])

    assert done.exit_code == 1
    assert "needs --yes" in done.stderr
    assert not home.ledger.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tran", MODEL], "Did you mean 'train'?"),
        (["train", "flight_delay"], "Did you mean 'flight_delays'?"),
        (["train", MODEL, "--set", "overide={}"], "Did you mean 'overrides'?"),
        (["parity", MODEL, "--set", "force=True"], "it takes none."),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(home: Home, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["run", *arguments, "--home", str(home.root)])

    assert done.exit_code == 1
    assert message in done.stderr


def test_a_setting_without_a_value_is_wrong_usage() -> None:
    assert CliRunner().invoke(app, ["run", "train", MODEL, "--set", "overrides"]).exit_code == 2


def test_needs_a_deployment_or_a_lake(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", "features", MODEL, "-p", MONTH, "--home", str(tmp_path / "none")])

    assert done.exit_code == 1
    assert f"make up TRADEWIND_HOME={tmp_path / 'none'}" in done.stderr


def test_an_error_opens_the_debugger_where_it_was_raised(home: Home) -> None:
    arguments = ("run", "features", MODEL, "-p", MONTH, "--pdb", "--home", str(home.root))

    done = tradewind(*arguments, text="up\nup\nq\n")

    assert (done.returncode, done.stdout) == (1, "")
    assert "include/lake/tables.py" in done.stderr
    assert done.stderr.count("(Pdb)") == 3
    assert "flights' must exist; got nothing there." in done.stderr.rpartition("(Pdb) error: ")[2]
    secrets = json.loads((home.secrets / "secrets.json").read_text())
    assert not any(value in done.stderr for value in secrets.values())
