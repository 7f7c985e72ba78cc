# mypy: ignore-errors
"""Write the files of a small deployment as release 0.1.0 writes them, by that release's own code.

    git worktree add --detach /tmp/old ac98478
    cd /tmp/old && PYTHONPATH=. <venv>/bin/python <repo>/tests/upgrade/make_fixture.py release-0.1.0.tar.xz

Three months of 220 flights go through ingest, features, materialization, training, compression and the model
server, which answers 60 requests; the ledger gets a bootstrap, a promotion and a decision. `expected.json` holds what
that release answered and measured. Weather is cut to one row in eight, so that the archive stays small.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path

from include.demo.flights import month_files
from include.drift.champion import describe
from include.drift.monitor import measure_partition, write_performance
from include.features.build import build_features
from include.features.examples import load_examples
from include.features.materialize import materialize
from include.features.store import OnlineStore, content_hash, online_path
from include.lake.ingest import ingest_partition, staged
from include.lake.landing import land_files
from include.lake.tables import content_hash as rows_hash
from include.lake.tables import current_version, read_table, write_partition
from include.registry.assemble import assemble_package
from include.registry.models import ModelVersion
from include.registry.package import write_package
from include.retraining.record import decision_key
from include.rollout.ledger import Ledger
from include.runtime.home import Home
from include.serving.client import ModelServerClient
from include.spec import load_spec
from include.training.commit import current_commit
from include.training.evaluate import evaluate
from include.training.job import make_job
from include.training.local import TrainerProcess
from include.training.snapshot import build_snapshot

# The path stands in the routes: reading them elsewhere is part of what is tested.
ROOT = Path("/tmp/tradewind-0.1.0")
SPEC = load_spec("flight_delays")
MONTHS = ("2013-01", "2013-02")
SERVED = "2013-03"
NUM_FLIGHTS = 220
NUM_ASKED = 120
TINY = {"hidden": [4], "max_epochs": 3, "batch_size": 64, "learning_rate": 0.01}


def land(home: Home, month: str) -> None:
    files = month_files(month, max_flights=NUM_FLIGHTS)
    header, *rows = files["weather.csv"].splitlines(keepends=True)
    files["weather.csv"] = b"".join([header, *rows[::8]])
    land_files(storage=home.storage, model=SPEC.name, partition=month, marker=SPEC.source.marker, files=files)


def bring(home: Home, month: str) -> None:
    """Do what ingest and materialize do; the expectations would refuse the cut weather."""
    storage = home.storage
    land(home, month)
    ingest_partition(spec=SPEC, storage=storage, partition=month)
    for name in SPEC.source.tables:
        rows = read_table(uri=storage.table(SPEC.name, staged(name)), storage_options={}, partitions=[month])
        write_partition(uri=storage.table(SPEC.name, name), table=rows, partition=month, storage_options={})
    build_features(spec=SPEC, storage=storage, partition=month, published_at=datetime(2013, 4, 1, tzinfo=UTC))
    materialize(spec=SPEC, storage=storage, partition=month)


def train(home: Home, seed: int) -> tuple[str, str]:
    """Do what train does, without a registry; return the package's folder and digest."""
    storage = home.storage
    snapshot = build_snapshot(spec=SPEC, storage=storage, window=MONTHS)
    job = make_job(spec=SPEC, snapshot=snapshot.ref, commit=current_commit(), storage=storage, params=TINY, seed=seed)
    TrainerProcess(job=job, storage=storage, timeout_s=300, say=print).run()
    evaluate(job, storage=storage, champion=None)
    made = assemble_package(job, storage=storage).package
    folder = home.mlflow / "1" / f"run{seed}" / "artifacts" / "package"
    write_package(str(folder), model=SPEC.name, job_key=job.key, contents=made.contents)
    return str(folder), made.digest


def serve(home: Home, packages: dict[str, tuple[str, str]]) -> list[dict]:
    """Load the versions, route them, and return what the server answers about flights of the last month."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (home.secrets / "token").write_text("token-of-the-fixture")
    command = [sys.executable, "-m", "include.serving", "--port", str(port), "--state", str(home.serving)]
    command += ["--storage", home.storage.root, "--token-file", str(home.secrets / "token")]
    server = subprocess.Popen(command)
    client = ModelServerClient(base_url=f"http://127.0.0.1:{port}", admin_token="token-of-the-fixture")
    while not client.is_ready():
        time.sleep(0.1)
    for version, (uri, digest) in packages.items():
        client.load(model=SPEC.name, version=version, uri=uri, digest=digest)
    client.set_routes(model=SPEC.name, champion="2", canary="1", canary_share_pct=20.0)
    examples = load_examples(spec=SPEC, storage=home.storage, partitions=(SERVED,)).slice(0, NUM_ASKED).to_pylist()
    asked = [feature.name for feature in SPEC.features.request] + list(SPEC.features.entities) + ["example_id"]
    answers = []
    for first in range(0, len(examples), 2):
        columns = {name: [row[name] for row in examples[first : first + 2]] for name in dict.fromkeys(asked)}
        answer = client.infer(model=SPEC.name, columns=columns, sticky_key=f"key-{first}")
        answers.append({"columns": columns, "sticky_key": f"key-{first}", "answer": answer})
    client.flush()
    server.terminate()
    server.wait(30)
    return answers


def decide(home: Home) -> None:
    """Append what a bootstrap, a promotion and a decision write."""
    ledger = Ledger(path=home.ledger, now=lambda: datetime(2013, 4, 2, tzinfo=UTC))
    for version, previous, kind in (("1", None, "bootstrap"), ("2", "1", "promote")):
        evidence = {"champion": version, "previous": previous, "approved_by": "", "golden": {"num_rows": 20}}
        evidence |= {"window": list(MONTHS), "commit": "abc"}
        key = f"deploy:{version}:{kind}:{version}:r1"
        ledger.append(model=SPEC.name, kind=kind, subject=version, evidence=evidence, actor="deploy", key=key)
    ledger.append(
        model=SPEC.name,
        kind="retrain_decision",
        subject=SERVED,
        evidence={"verdict": "keep", "reasons": ["nothing is lost"], "trigger": None},
        actor="monitor",
        key=decision_key(model=SPEC.name, partition=SERVED, run_id="scheduled__2013-03"),
    )


def monitor(home: Home, package: tuple[str, str]) -> dict:
    """Do what monitor does, without a registry; return what it measured of the champion."""
    uri, digest = package
    tags = {"window_start": MONTHS[0], "window_end": MONTHS[-1], "digest": digest}
    version = ModelVersion(name=SPEC.name, version="2", source=uri, run_id="run2", tags=tags)
    champion = describe(version, storage=home.storage)
    found = measure_partition(spec=SPEC, storage=home.storage, partition=SERVED, champion=champion)
    write_performance(spec=SPEC, storage=home.storage, measurement=found, champion=champion)
    served = found.champion
    return {"num_predictions": served.num_predictions, "log_loss": served.log_loss} if served else {}


def expected(home: Home, answers: list[dict]) -> dict:
    storage = home.storage
    tables = sorted(path.name for path in Path(storage.root, "lake", SPEC.name).iterdir())
    uris = {name: storage.table(SPEC.name, name) for name in tables}
    return {
        "answers": answers,
        "ledger": [entry.hash for entry in Ledger(path=home.ledger).entries()],
        "online": content_hash(OnlineStore(path=online_path(storage)), SPEC),
        "tables": {
            name: {
                "version": current_version(uri=uri, storage_options={}),
                "rows": rows_hash(read_table(uri=uri, storage_options={})),
            }
            for name, uri in uris.items()
        },
    }


def main(target: Path) -> None:
    shutil.rmtree(ROOT, ignore_errors=True)
    home = Home(root=ROOT)
    home.prepare()
    for month in (*MONTHS, SERVED):
        bring(home, month)
    packages = {str(number): train(home, seed=number) for number in (1, 2)}
    answers = serve(home, packages)
    decide(home)
    measured = monitor(home, packages["2"])
    (home.root / "expected.json").write_text(json.dumps(expected(home, answers) | {"measured": measured}))
    shutil.copyfile("include/models/flight_delays/model.yaml", home.root / "model.yaml")
    for name in ("jobs", "snapshots", "reports"):  # the trainer refuses another release's jobs by design
        shutil.rmtree(home.data / name, ignore_errors=True)
    for name in ("secrets", "logs", "pids", "airflow"):
        shutil.rmtree(home.root / name)
    with tarfile.open(target, "w:xz", preset=9) as archive:
        archive.add(home.root, arcname="home", filter=_anonymous)
    shutil.rmtree(ROOT)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


if __name__ == "__main__":
    main(Path(sys.argv[1]))
