"""Whatever is killed, tables, online store, decisions, aliases and routes end as if nothing had been.

`TRADEWIND_CHAOS_MONTHS`, `_KILLS` and `_SEED` make a shorter or another run; only a full one is written down.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from include import partitions
from include.demo.flights import MODEL, land_month
from include.demo.loop import Loop
from include.demo.state import table_digests
from include.errors import SetupError
from include.features.build import build_features
from include.features.materialize import materialize
from include.features.store import content_hash, open_store
from include.lake.ingest import ingest_partition
from include.runtime import processes, stack
from include.runtime.airflow_api import AirflowApi
from include.runtime.state import SUPERVISOR
from include.spec import load_spec
from include.validation.partition import check_partition, publish_partition
from tests.chaos import report
from tests.chaos.killer import ServiceKiller, TaskKiller
from tests.chaos.page import write_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.lake.storage import Storage
    from include.runtime.services import Deployment
    from tests.chaos.killer import Kill

FULL_NUM_MONTHS = 7
NUM_MONTHS = int(os.environ.get("TRADEWIND_CHAOS_MONTHS", FULL_NUM_MONTHS))
SEED = int(os.environ.get("TRADEWIND_CHAOS_SEED", "2013"))
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "chaos.json"
MIN_KILLS = 40
OUTAGE_S = 180.0
GAP_S = (0.2, 2.5)
MAX_FLIGHTS = 3000
EARLY_TARGETS = (r"ingest\.(ingest|validate)", r"materialize\..*")
TARGETS = (
    *(r"ingest\.ingest", r"ingest\.validate"),
    *(r"materialize\.build_features", r"materialize\.(materialize_features|check_parity)"),
    *(r"monitor\.decide", r"monitor\.publish_.*", r"monitor\.decide"),
    *(r"train\.snapshot", r"train\.train", r"train\.train", r"train\.(evaluate|compress)", r"train\.register"),
    *(r"deploy\.deploy", r"deploy\.shift_\d+", r"deploy\.promote"),
)
"""What a loop of two trainings runs."""
DECK = (
    *("scheduler",) * 6,
    *("triggerer",) * 4,
    *("api-server",) * 5,
    *("dag-processor",) * 3,
    *("model-server",) * 6,
    *("postgres",) * 5,
    *("mlflow",) * 2,
    *("supervisor",) * 3,
)
CHOSEN_DECK = DECK[:: max(1, len(DECK) // int(os.environ.get("TRADEWIND_CHAOS_KILLS", len(DECK))))]


@pytest.fixture
def deploy(short_tmp_path: Path) -> Iterator[Callable[[str], Deployment]]:
    """Return a function that starts a deployment of a name; all are stopped in the end."""
    started = []

    def start(name: str) -> Deployment:
        deployment = stack.open_deployment(short_tmp_path / name, ports=stack.free_ports())
        started.append(deployment)
        stack.up(deployment, say=lambda _: None, models=(MODEL,))
        return deployment

    yield start
    for deployment in started:
        stack.down(deployment.home, say=lambda _: None)


def airflow_of(deployment: Deployment) -> AirflowApi:
    return AirflowApi(base_url=deployment.airflow_url, password=deployment.secrets.admin_password, outage_s=OUTAGE_S)


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


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_kills_leave_the_same_tables_and_online_store(
    deploy: Callable[[str], Deployment], storage: Storage
) -> None:
    months = ("2013-01",)
    deployment = deploy("killed")
    killer = TaskKiller(api=airflow_of(deployment), targets=EARLY_TARGETS, seed=SEED)
    killer.start()

    Loop(deployment=deployment, months=months, say=lambda _: None, max_flights=MAX_FLIGHTS).run()

    killer.stop()
    assert len(killer.kills) == len(EARLY_TARGETS)
    spec, killed = load_spec(MODEL), deployment.home.storage
    tables, online = undisturbed_tables(storage, months)
    assert table_digests(spec=spec, storage=killed) == tables
    assert content_hash(open_store(spec=spec, storage=killed), spec) == online
    check_that_up_notices_a_dying_supervisor(deployment)


def check_that_up_notices_a_dying_supervisor(deployment: Deployment) -> None:
    """One that is killed while `up` waits leaves nobody who starts what ends: `up` must not say that all is well."""
    pids = deployment.home.pids
    dying = processes.running(pids)[SUPERVISOR]

    def kill(said: str) -> None:
        if said == "unpausing Dags":
            os.kill(dying.pid, signal.SIGKILL)

    with pytest.raises(SetupError, match="supervisor must keep running; it ended"):
        stack.up(deployment, say=kill, models=(MODEL,))
    stack.up(deployment, say=lambda _: None, models=(MODEL,))
    assert processes.running(pids)[SUPERVISOR].pid != dying.pid


@pytest.mark.chaos
@pytest.mark.timeout(3000)
def test_kills_over_the_whole_loop_leave_the_same_end(deploy: Callable[[str], Deployment]) -> None:
    """Two trainings, a bootstrap, a canary; everything that runs is killed, several times."""
    months = partitions.window(partitions.shift("2013-01", NUM_MONTHS - 1), NUM_MONTHS)

    calm = deploy("undisturbed")
    began_s = time.monotonic()
    run_months(calm, months)
    calm_s, undisturbed = time.monotonic() - began_s, report.end_state(calm)
    stack.down(calm.home, say=lambda _: None)

    deployment = deploy("killed")
    began_s = time.monotonic()
    loop, kills = run_under_kills(deployment, months)
    disturbed = report.end_state(deployment)
    run: dict[str, Any] = {
        "seed": SEED,
        "months": len(months),
        "seconds": {"undisturbed": round(calm_s, 1), "killed": round(time.monotonic() - began_s, 1)},
        "num_kills": len(kills),
        "victims": report.summary(kills),
        "requests": report.requests(loop),
        "equal": report.compare(undisturbed, disturbed),
        "kills": [asdict(kill) for kill in kills],
    }

    document = json.dumps({"machine": report.machine(), "runs": [run]}, indent=1) + "\n"
    console = Console(width=100, highlight=False)
    console.print(*report.tables(run))
    console.print({key: run[key] for key in ("num_kills", "seconds", "requests")})
    console.print("tasks killed:", ", ".join(kill.victim for kill in kills if kill.kind == "task"))
    if NUM_MONTHS == FULL_NUM_MONTHS and len(kills) >= MIN_KILLS:
        BENCHMARK.write_text(document)
    differing = [name for name, same in run["equal"].items() if not same]
    assert {name: disturbed.get(name) for name in differing} == {name: undisturbed.get(name) for name in differing}
    assert all(kill.recovered_s is not None for kill in kills)
    assert run["requests"]["never_answered"] == 0
    assert run["requests"]["answered_but_not_logged"] == 0
    if NUM_MONTHS == FULL_NUM_MONTHS:
        assert len(kills) >= MIN_KILLS
        stages = {kill.victim.partition(".")[0] for kill in kills if kill.kind == "task"}
        assert stages == {"ingest", "materialize", "monitor", "train", "deploy"}
        assert undisturbed["routes"]["champion"] == "2"  # type: ignore[index]
        write_page(run)


def run_months(deployment: Deployment, months: tuple[str, ...], *, say: Callable[[str], None] = lambda _: None) -> Loop:
    """Run the months, with patience for servers that are away."""
    loop = Loop(
        deployment=deployment,
        months=months,
        say=say,
        tell=lambda text: print(text, flush=True),  # noqa: T201 - the only sign of life in minutes
        month_timeout_s=600,
        outage_s=OUTAGE_S,
    )
    loop.run()
    return loop


def run_under_kills(deployment: Deployment, months: tuple[str, ...]) -> tuple[Loop, list[Kill]]:
    """Run the months while tasks and services are killed; return the loop and the kills."""
    api = airflow_of(deployment)
    tasks = TaskKiller(api=api, targets=TARGETS, seed=SEED)
    services = ServiceKiller(deployment=deployment, api=api, deck=CHOSEN_DECK, gap_s=GAP_S, seed=SEED)
    tasks.start()
    services.start()
    try:
        loop = run_months(deployment, months, say=services.hear)
        tasks.stop()
        services.finish()
    finally:
        tasks.stop()
        services.stop()
        kills = sorted([*tasks.kills, *services.kills], key=lambda kill: kill.at_s)
        print(*kills, sep="\n")  # noqa: T201 - what a run that failed is understood by
    return loop, kills
