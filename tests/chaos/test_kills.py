"""Whatever is killed, the tables, the online store, the aliases and the routes end as if nothing had been."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from include import partitions
from include.demo.flights import MODEL, land_month
from include.demo.loop import Loop
from include.demo.state import serving_state, table_digests
from include.features.build import build_features
from include.features.materialize import materialize
from include.features.store import content_hash, open_store
from include.lake.ingest import ingest_partition
from include.runtime import stack
from include.runtime.airflow_api import AirflowApi
from include.serving.client import ModelServerClient
from include.spec import load_spec
from include.validation.partition import check_partition, publish_partition
from tests.chaos.killer import Killer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.lake.storage import Storage
    from include.runtime.services import Deployment

SEED = 2013
MAX_FLIGHTS = 3000
EARLY_TARGETS = (r"ingest\.(ingest|validate)", r"materialize\..*")
TARGETS = (
    *EARLY_TARGETS,
    r"monitor\.decide",
    r"train\.(snapshot|evaluate|compress|register)",
    r"train\.train",
    r"deploy\.deploy",
    r"deploy\.shift_\d+",
)


@pytest.fixture
def deploy(short_tmp_path: Path) -> Iterator[Callable[[str], Deployment]]:
    """Return a function that starts a deployment of a name; all are stopped in the end."""
    started = []

    def start(name: str) -> Deployment:
        deployment = stack.open_deployment(short_tmp_path / name, ports=stack.free_ports())
        started.append(deployment)
        stack.up(deployment, say=lambda _: None)
        return deployment

    yield start
    for deployment in started:
        stack.down(deployment.home, say=lambda _: None)


def run_loop(
    deployment: Deployment, months: tuple[str, ...], *, kill: tuple[str, ...] = (), max_flights: int | None = None
) -> dict[str, str]:
    """Run the months; return which task was killed for each target."""
    api = AirflowApi(base_url=deployment.airflow_url, password=deployment.secrets.admin_password)
    killer = Killer(api=api, targets=kill, seed=SEED)
    killer.start()
    Loop(deployment=deployment, months=months, say=lambda _: None, max_flights=max_flights).run()
    killer.stop()
    return killer.victims


def undisturbed_tables(storage: Storage, months: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """Do what ingest and materialize do, one call after the other, without Airflow."""
    spec = load_spec(MODEL)
    for month in months:
        land_month(storage=storage, partition=month, max_flights=MAX_FLIGHTS)
        ingest_partition(spec=spec, storage=storage, partition=month)
        publish_partition(
            spec=spec, storage=storage, checked=check_partition(spec=spec, storage=storage, partition=month)
        )
        build_features(spec=spec, storage=storage, partition=month, published_at=datetime.now(UTC))
        materialize(spec=spec, storage=storage, partition=month)
    return table_digests(spec=spec, storage=storage), content_hash(open_store(spec=spec, storage=storage), spec)


@pytest.mark.timeout(300)
def test_two_kills_leave_the_same_tables_and_online_store(
    deploy: Callable[[str], Deployment], storage: Storage
) -> None:
    months = ("2013-01",)
    deployment = deploy("killed")

    victims = run_loop(deployment, months, kill=EARLY_TARGETS, max_flights=MAX_FLIGHTS)

    assert set(victims) == set(EARLY_TARGETS)
    spec, killed = load_spec(MODEL), deployment.home.storage
    tables, online = undisturbed_tables(storage, months)
    assert table_digests(spec=spec, storage=killed) == tables
    assert content_hash(open_store(spec=spec, storage=killed), spec) == online


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_a_kill_in_each_stage_leaves_the_same_end(deploy: Callable[[str], Deployment]) -> None:
    """The whole loop: two trainings, a bootstrap, a canary."""
    spec = load_spec(MODEL)
    months = partitions.window("2013-07", 7)
    ends, victims = [], {}
    for name, kill in (("undisturbed", ()), ("killed", TARGETS)):
        deployment = deploy(name)
        victims |= run_loop(deployment, months, kill=kill)
        storage = deployment.home.storage
        server = ModelServerClient(
            base_url=deployment.model_server_url, admin_token=deployment.secrets.model_server_token
        )
        ends.append(
            {
                "tables": table_digests(spec=spec, storage=storage),
                "online": content_hash(open_store(spec=spec, storage=storage), spec),
                "serving": serving_state(spec=spec, deployment=deployment, server=server),
            }
        )
        stack.down(deployment.home, say=lambda _: None)
    print("killed:", ", ".join(victims.values()))  # noqa: T201 - the run's evidence
    assert set(victims) == set(TARGETS)
    assert ends[0] == ends[1]
    assert ends[0]["serving"]["routes"]["champion"] == "2"
