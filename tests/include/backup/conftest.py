"""A small deployment with all that a backup must keep, and no Airflow: seconds instead of half a minute."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from include.features.store import OnlineStore, content_hash
from include.lake.landing import land_files
from include.lake.tables import content_hash as rows_hash
from include.lake.tables import current_version, read_table, write_partition
from include.rollout.ledger import Ledger
from include.runtime import processes, stack
from include.runtime.databases import databases_of
from include.serving.router import Router, Routes
from tests.tiny_models import SPEC, fill_online_store, tiny_package

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.lake.storage import Storage
    from include.runtime.services import Deployment

MODEL = SPEC.name


@dataclass(frozen=True, kw_only=True)
class SmallDeployment:
    """A home with a running database, and what a test writes into it."""

    deployment: Deployment

    @property
    def root(self) -> Path:
        return self.deployment.home.root

    @property
    def storage(self) -> Storage:
        return self.deployment.home.storage

    @property
    def ledger(self) -> Ledger:
        return Ledger(path=self.deployment.home.ledger)

    def write_month(self, number: int) -> None:
        """Do what a month of work does, in its order: land, tables, features, package, routes, ledger, database."""
        month = f"{2000 + number // 12}-{number % 12 + 1:02d}"
        home, storage = self.deployment.home, self.storage
        land_files(storage=storage, model=MODEL, partition=month, marker="_SUCCESS", files={"a.csv": b"a\n1\n"})
        for table in ("staged_flights", "flights"):
            rows = pa.table({"a": [number] * 50, "b": [f"row {n}" for n in range(50)]})
            write_partition(uri=storage.table(MODEL, table), table=rows, partition=month, storage_options={})
        fill_online_store(storage, {"carrier_lateness": {f"C{number}": (0.1 * number, 9.0)}})
        folder = home.mlflow / "1" / f"run{number}" / "artifacts" / "package"
        package = tiny_package(folder, bias=-1.0 - number / 100)
        router = Router(path=home.serving / "router.json")
        router.restore()
        version = str(number)
        router.set_version(MODEL, version, {"uri": str(folder), "digest": package.digest})
        router.set_routes(MODEL, Routes(champion=version))
        evidence = {"champion": version, "previous": None}
        self.ledger.append(
            model=MODEL, kind="promote", subject=version, evidence=evidence, actor="test", key=f"promote:{version}"
        )
        uri = f"{folder.as_uri()}"
        databases = databases_of(self.deployment)
        databases["mlflow"].query("INSERT INTO versions VALUES (%s, %s)", (version, uri))
        done = json.dumps({"uri": str(folder), "month": month})
        databases["airflow"].query("INSERT INTO done VALUES (%s, %s, %s)", (number, done, f"see '{self.root}/data'"))

    def stop(self) -> None:
        """Stop its database."""
        stop(self.deployment.home.pids)

    def contents(self) -> dict[str, object]:
        """Return what is in it, without its path."""
        home = self.deployment.home
        tables = {}
        for name in ("staged_flights", "flights"):
            uri = self.storage.table(MODEL, name)
            rows = read_table(uri=uri, storage_options={})
            first = read_table(uri=uri, storage_options={}, version=0)
            version = current_version(uri=uri, storage_options={})
            tables[name] = (version, rows_hash(rows), rows_hash(first))
        routes = json.loads((home.serving / "router.json").read_text().replace(str(self.root), "ROOT"))
        return {
            "tables": tables,
            "online": content_hash(OnlineStore(path=Path(self.storage.feast()) / "online.db"), SPEC),
            "routes": routes["models"][MODEL],
            "ledger": [entry.hash for entry in self.ledger.entries()],
            "secrets": self.deployment.secrets,
            "landed": sorted(path.name for path in Path(self.storage.landing(MODEL)).iterdir()),
            "versions": self.rows("mlflow", "versions"),
            "done": self.rows("airflow", "done"),
        }

    def rows(self, database: str, table: str) -> list[tuple[object, ...]]:
        found = databases_of(self.deployment)[database].query(f"SELECT t::text FROM {table} AS t ORDER BY 1")
        return [(text.replace(str(self.root), "ROOT"),) for (text,) in found]


def open_small(root: Path) -> SmallDeployment:
    """Open a home and start its database."""
    deployment = stack.open_deployment(root, ports=stack.free_ports())
    deployment.postgres.start()
    return SmallDeployment(deployment=deployment)


def stop(pids: Path) -> None:
    """Stop what was started with process files in a folder."""
    for process in processes.find(pids):
        processes.stop(process, pids=pids, how=signal.SIGINT)


@pytest.fixture
def small(short_tmp_path: Path) -> Iterator[SmallDeployment]:
    """Yield a deployment with one month in it; the databases of all deployments beside it are stopped in the end."""
    made = open_small(short_tmp_path / "live")
    databases = databases_of(made.deployment)
    databases["airflow"].query("CREATE TABLE done (number bigint PRIMARY KEY, value json, said text)")
    databases["mlflow"].query("CREATE TABLE versions (version varchar(9) PRIMARY KEY, uri varchar(500))")
    made.write_month(1)
    yield made
    for folder in short_tmp_path.iterdir():
        stop(folder / "pids")
