"""Facts for the plan, from a real registry, model server, ledger and lake, and from files alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from include.lake.files import write_bytes
from include.plan.gather import read_facts, read_trainings
from include.progress.read import Sources
from include.retraining.record import KIND
from include.rollout.ledger import Ledger
from include.serving.client import ModelServerClient
from include.spec import load_spec
from tests.flights import publish_month

if TYPE_CHECKING:
    from pathlib import Path

    from include.lake.storage import Storage
    from tests.running import RolloutWorld

SPEC = load_spec("flight_delays")
NOW = datetime(2100, 1, 1, tzinfo=UTC)
NOBODY = "http://127.0.0.1:1"
RESULT: dict[str, Any] = {
    "job_key": "2013-03-0123456789abcdef",
    "num_train_rows": 900,
    "num_validation_rows": 100,
    "epochs": [{}, {}, {}],
    "seconds": {"read": 0.5, "fit": 7.0},
    "device": "cpu",
    "finished_at_ms": 2,
}


def finish(storage: Storage, key: str, result: dict[str, Any]) -> None:
    uri = f"{storage.job(SPEC.name, key)}/result.json"
    write_bytes(uri, json.dumps(result).encode(), storage=storage)


def record(ledger: Ledger, *, kind: str, subject: str, evidence: dict[str, Any]) -> None:
    ledger.append(model=SPEC.name, kind=kind, subject=subject, evidence=evidence, actor="test", key=f"{kind}{subject}")


def test_reads_what_serves_what_was_decided_and_what_it_cost(rollout_world: RolloutWorld, storage: Storage) -> None:
    version = rollout_world.register(alias="champion", window_end="2013-03")
    ledger = rollout_world.ledger
    record(ledger, kind="bootstrap", subject=version, evidence={"champion": version, "previous": None})
    record(ledger, kind=KIND, subject="2013-03", evidence={"verdict": "bootstrap", "reasons": ["no champion serves"]})
    publish_month(spec=SPEC, storage=storage, partition="2013-03", num_flights=20)
    finish(storage, "a", RESULT)
    sources = Sources(
        storage=storage, ledger=ledger, tracking_uri=rollout_world.mlflow_url, server=rollout_world.server.client
    )

    found = read_facts(spec=SPEC, sources=sources, now=NOW)

    assert found.champion is not None
    assert (found.champion.version, found.champion.window_end) == (version, "2013-03")
    assert found.champion.since == ledger.entries(SPEC.name, "bootstrap")[0].at
    assert found.is_champion_known
    assert found.decision is not None
    assert (found.decision.partition, found.decision.verdict) == ("2013-03", "bootstrap")
    assert found.history is not None
    assert (set(found.history.published), set(found.history.trained)) == ({"2013-03"}, {"2013-03"})
    assert found.trainings is not None
    assert [(item.window_end, item.num_rows, item.num_epochs, item.seconds) for item in found.trainings] == [
        ("2013-03", 1000, 3, 7.5)
    ]
    assert found.routes is not None
    assert [text.partition(" ")[0] for text in found.silent] == ["Airflow"]


def test_without_any_server_the_files_still_speak(storage: Storage, tmp_path: Path) -> None:
    ledger = Ledger(path=tmp_path / "ledger.sqlite")
    record(ledger, kind="bootstrap", subject="1", evidence={"champion": "1", "previous": None})
    sources = Sources(
        storage=storage, ledger=ledger, tracking_uri=NOBODY, server=ModelServerClient(base_url=NOBODY, timeout_s=1)
    )

    found = read_facts(spec=SPEC, sources=sources, now=NOW)

    assert found.champion is not None
    assert (found.champion.version, found.champion.window_end, found.is_champion_known) == ("1", None, False)
    assert found.history is not None
    assert not found.history.published
    assert found.trainings == ()
    assert found.routes is None
    assert found.requests_per_s is None
    assert sorted(text.partition(":")[0] for text in found.silent) == [
        "Airflow was not asked",
        "MLflow",
        "model server",
    ]


def test_trainings_come_oldest_first_and_damaged_results_are_left_out(storage: Storage) -> None:
    finish(storage, "a", RESULT)
    finish(storage, "b", RESULT | {"job_key": "2013-06-0123456789abcdef", "finished_at_ms": 1})
    finish(storage, "c", {"job_key": "2013-09-0123456789abcdef"})
    write_bytes(f"{storage.job(SPEC.name, 'd')}/result.json", b"{", storage=storage)

    found = read_trainings(model=SPEC.name, storage=storage)

    assert [training.window_end for training in found] == ["2013-06", "2013-03"]
