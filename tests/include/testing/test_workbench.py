from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from include.demo.flights import month_files
from include.features.store import online_features, open_store
from include.lake.csv_reader import read_csv
from include.registry.models import list_versions
from include.rollout.ledger import Ledger
from include.spec import load_spec
from operators.hooks.ledger import LedgerHook
from operators.hooks.mlflow import MlflowHook
from operators.ingest_partition import IngestPartitionOperator
from tests.include.testing.test_tasks import do

if TYPE_CHECKING:
    from include.testing.workbench import Workbench

MODEL = "flight_delays"


def test_what_is_landed_is_ingested(workbench: Workbench) -> None:
    workbench.land(MODEL, "2013-01", month_files("2013-01", max_flights=50))
    ingest = IngestPartitionOperator(task_id="ingest", model=MODEL)
    assert workbench.run(ingest, partition="2013-01").returned()["tables"]["flights"]["num_rows"] == 50


def test_what_is_published_and_materialized_is_served(workbench: Workbench) -> None:
    spec = load_spec(MODEL)
    files = month_files("2013-01", max_flights=300)
    tables = {name: read_csv(files[t.file], file=t.file, table=t) for name, t in spec.source.tables.items()}
    workbench.publish(MODEL, "2013-01", tables)
    workbench.materialize(MODEL, "2013-01")
    rows = {"carrier": ["UA"], "origin": ["EWR"], "route": ["EWR-IAH"], "tailnum": ["no such plane"]}
    found = online_features(open_store(spec=spec, storage=workbench.storage), spec, rows)
    assert found["carrier_num_flights_28d"][0] > 0


def test_tasks_find_the_ledger(workbench: Workbench) -> None:
    found = workbench.run(do(lambda _: str(LedgerHook().get_conn().path))).returned()
    assert found == str(workbench.ledger)
    assert Ledger(path=workbench.ledger).entries() == []


@pytest.mark.usefixtures("registry")
def test_tasks_find_the_registry(workbench: Workbench) -> None:
    task = do(lambda _: len(list_versions(MlflowHook().get_conn(), model="never_registered")))
    assert workbench.run(task).returned() == 0


def test_without_a_registry_there_is_no_connection(workbench: Workbench) -> None:
    assert "isn't defined" in str(workbench.run(do(lambda _: MlflowHook().get_conn())).error)
