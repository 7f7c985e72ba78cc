"""What `status`, `plan` and `doctor` say of a deployment on disk, and with which exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from include.cli.app import app
from include.cli.status import is_running, summarize
from include.plan.facts import Champion, Facts, PastDecision
from include.progress.state import ModelProgress, PartitionProgress, Stage
from include.rollout.decision import RolloutState
from include.rollout.ledger import Ledger
from include.runtime.home import REPO
from include.runtime.state import ProcessState, SupervisorState, write_state
from include.spec import MODELS_DIR, load_spec

if TYPE_CHECKING:
    from pathlib import Path

    from include.runtime.home import Home

SPEC = load_spec("flight_delays")
NOW = datetime(2013, 8, 1, tzinfo=UTC)


def ask(*arguments: str, home: Home) -> tuple[int, Any, str]:
    done = CliRunner().invoke(app, [*arguments, "--json", "--home", str(home.root)])
    return done.exit_code, json.loads(done.stdout), done.stderr


def finding(found: Any, name: str) -> tuple[str, str]:
    return next((item["level"], item["said"]) for item in found["findings"] if item["name"] == name)


def progress(key: str, *reached: Stage) -> PartitionProgress:
    return PartitionProgress(model=SPEC.name, partition=key, reached=dict.fromkeys(reached, NOW))


def test_a_deployment_that_does_not_run_is_not_well(home: Home) -> None:
    code, said, _ = ask("status", SPEC.name, home=home)

    assert (code, said["is_well"], said["supervisor"]) == (1, False, None)
    (model,) = said["models"]
    assert (model["champion"], model["newest"], model["stuck"]) == (None, {}, [])
    assert len(model["silent"]) == 3


def test_the_newest_partition_is_told_by_stage() -> None:
    parts = (
        progress("2013-06", *Stage),
        progress("2013-07", Stage.LANDED, Stage.INGESTED, Stage.MATERIALIZED, Stage.DECIDED, Stage.CLOSED),
        progress("2013-08", Stage.LANDED),
    )
    routes = RolloutState(champion="1", canary="2", canary_share_pct=10.0, counters={})
    champion = Champion(version="1", since=NOW)

    found = summarize(
        Facts(spec=SPEC, progress=ModelProgress(model=SPEC.name, partitions=parts), routes=routes, champion=champion)
    )

    assert found.newest == {
        Stage.LANDED: "2013-08",
        Stage.INGESTED: "2013-07",
        Stage.MATERIALIZED: "2013-07",
        Stage.DECIDED: "2013-07",
        Stage.TRAINED: "2013-06",
        Stage.DEPLOYED: "2013-06",
        Stage.CLOSED: "2013-07",
    }
    assert found.canary is not None
    assert (found.canary.version, found.canary.role, found.canary.share_pct) == ("2", "canary", 10.0)
    assert (found.champion, found.features_at) == (champion, NOW)


@pytest.mark.parametrize(("verdict", "outcome"), [("bootstrap", "a gate"), ("retrain", "a gate"), ("keep", "")])
def test_a_decided_training_without_a_version_says_why(verdict: str, outcome: str) -> None:
    part = PartitionProgress(model=SPEC.name, partition="2013-07", reached={Stage.CLOSED: NOW}, note="a gate")
    known = ModelProgress(model=SPEC.name, partitions=(progress("2013-06"), part))
    decision = PastDecision(partition="2013-07", verdict=verdict, reason="why", at=NOW)

    assert summarize(Facts(spec=SPEC, progress=known, decision=decision)).outcome == outcome


@pytest.mark.parametrize(
    ("phase", "is_supervised", "expected"),
    [("ready", True, True), ("ready", False, False), ("restarting", True, False)],
)
def test_only_supervised_and_ready_processes_are_well(phase: str, *, is_supervised: bool, expected: bool) -> None:
    told = SupervisorState(
        told_at=NOW.isoformat(),
        processes=(ProcessState(name="mlflow", phase=phase),),
        is_supervised=is_supervised,
    )

    assert is_running(told) is expected
    assert not is_running(None)


def test_the_tables_name_model_process_and_remedy(home: Home) -> None:
    said = CliRunner().invoke(app, ["status", "--home", str(home.root)])

    assert said.exit_code == 1
    assert "flight_delays" in said.stdout
    assert "`make up` starts them" in said.stdout
    assert "not seen: MLflow" in said.stderr


def test_a_process_that_ended_is_told_with_its_exit_and_without_a_supervisor_with_the_remedy(home: Home) -> None:
    gone = ProcessState(name="mlflow", phase="ready", pid=2**22 + 1, restarts=2, last_exit="signal 9")
    write_state(home, SupervisorState(told_at=NOW.isoformat(), processes=(gone,)))

    said = CliRunner().invoke(app, ["status", "--home", str(home.root)])

    assert said.exit_code == 1
    (row,) = (line.split() for line in said.stdout.splitlines() if line.startswith(" mlflow"))
    assert row == ["mlflow", "stopped", "-", "-", "2", "signal", "9", "-"]
    assert "`make up` starts it" in said.stdout


def test_plan_speaks_of_a_deployment_that_is_down(home: Home) -> None:
    code, said, errors = ask("plan", SPEC.name, home=home)

    lines = said["models"][SPEC.name]["plan"]
    assert (code, errors, said["unreadable"]) == (0, "", [])
    assert [line["stage"] for line in lines][-3:] == ["monitor", "train", "deploy"]
    assert lines[-3]["subject"] == SPEC.source.first_partition


def test_a_broken_spec_hides_no_other_model(home: Home, tmp_path: Path) -> None:
    text = (MODELS_DIR / SPEC.name / "model.yaml").read_text()
    for name, mended in (("good", text), ("bad", text.replace("owner:", "ownr:", 1))):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.yaml").write_text(mended.replace(f"name: {SPEC.name}", f"name: {name}", 1))
    command = [sys.executable, "-m", "include.cli", "plan", "--json", "--home", str(home.root)]
    env = {**os.environ, "TRADEWIND_MODELS": str(tmp_path / "models")}

    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)

    said = json.loads(done.stdout)
    assert (done.returncode, list(said["models"]), len(said["unreadable"])) == (1, ["good"], 1)
    assert "Did you mean 'owner'?" in done.stderr


def test_doctor_finds_a_prepared_deployment_well(home: Home) -> None:
    _, said, _ = ask("doctor", home=home)

    assert finding(said, "files")[0] == "ok"
    assert finding(said, "ledger") == ("ok", "empty")
    assert finding(said, "servers") == ("warn", "none runs")
    assert finding(said, f"model {SPEC.name}")[0] == "ok"
    assert finding(said, "packages")[0] == "ok"


def test_doctor_tells_what_to_do_without_a_deployment(home: Home) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json", "--home", str(home.root / "none")])

    assert finding(json.loads(done.stdout), "deployment")[0] == "warn"


def test_doctor_fails_on_a_secret_that_others_may_read(home: Home) -> None:
    (home.secrets / "secrets.json").chmod(0o640)

    code, said, _ = ask("doctor", home=home)

    assert (code, said["level"]) == (1, "fail")
    assert finding(said, "files") == ("fail", "others may read secrets/secrets.json")


def test_doctor_fails_on_a_port_that_somebody_else_holds(home: Home) -> None:
    port = json.loads((home.root / "ports.json").read_text())["mlflow"]
    with socket.create_server(("127.0.0.1", port)):
        code, said, _ = ask("doctor", home=home)

    assert code == 1
    assert finding(said, f"port {port}") == ("fail", "taken by something else than our mlflow")


def test_doctor_fails_on_a_ledger_that_was_edited(home: Home) -> None:
    import sqlite3

    ledger = Ledger(path=home.ledger)
    for number in range(2):
        ledger.append(model="m", kind="gate", subject="1", evidence={}, actor="test", key=str(number))
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("DROP TRIGGER entries_never_change")
        connection.execute("UPDATE entries SET model = 'other' WHERE seq = 1")
    connection.close()

    code, said, _ = ask("doctor", home=home)

    assert code == 1
    level, text = finding(said, "ledger")
    assert level == "fail"
    assert "is not as it was written" in text


@pytest.mark.parametrize("command", ["status", "plan", "doctor"])
def test_no_secret_is_ever_shown(home: Home, command: str) -> None:
    secrets = json.loads((home.secrets / "secrets.json").read_text())

    done = CliRunner().invoke(app, [command, "--home", str(home.root)])

    assert not any(value in done.stdout + done.stderr for value in secrets.values())


def test_ages_are_told_in_their_largest_unit() -> None:
    from include.cli.tables import age

    past = {timedelta(0): "now", timedelta(seconds=1): "1 second", timedelta(minutes=90): "1 hour"}
    assert {since: age(NOW - since, now=NOW) for since in past} == past
    assert age(None, now=NOW) == "-"
