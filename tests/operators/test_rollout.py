"""The rollout's operators and sensor, in the order of `deploy_<model>`, on a real model server, MLflow and ledger."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped, TaskDeferred

from include.errors import BadInputError, GateError, InconclusiveError, NotFoundError, PartitionError, ServiceError
from operators.assets import champion_asset, closed_asset
from operators.choose_version import ChooseVersionOperator
from operators.deploy_model import DeployModelOperator
from operators.promote_model import PromoteModelOperator
from operators.roll_back_model import RollBackModelOperator
from operators.rollouts import ATTEMPTED_VERSION
from operators.shift_traffic import ShiftTrafficOperator
from sensors.canary_settled import CanarySettledSensor
from tests.tiny_models import FRAGILE_DISTANCE

if TYPE_CHECKING:
    from tests.running import RolloutWorld

MODEL = "flight_delays"
LONG = {"distance": [FRAGILE_DISTANCE + 1] * 2}


def context(run: str = "run-1", *, person: str | None = None, dag: str = f"deploy_{MODEL}") -> Any:
    events = {asset: SimpleNamespace(extra=None) for asset in (champion_asset(MODEL), closed_asset(MODEL))}
    dag_run = SimpleNamespace(dag_id=dag, run_id=run, triggering_user_name=person)
    return {"dag_run": dag_run, "run_id": run, "outlet_events": events}


def deploy(run: str = "run-1", **how: Any) -> dict[str, Any]:
    operator = DeployModelOperator(task_id="deploy", model=MODEL, partition="2013-03", **how)
    return operator.execute(context=context(run))


def promote(version: str, run: str = "run-1") -> dict[str, Any]:
    return PromoteModelOperator(task_id="promote", model=MODEL, version=version).execute(context=context(run))


def shift(version: str, share_pct: float, run: str = "run-1") -> dict[str, Any]:
    operator = ShiftTrafficOperator(task_id="shift", model=MODEL, version=version, share_pct=share_pct)
    return operator.execute(context=context(run))


def settled(version: str, **how: Any) -> dict[str, Any]:
    sensor = CanarySettledSensor(task_id="settled", model=MODEL, version=version, **{"inline_wait_s": 0, **how})
    return sensor.execute(context=context())


def settled_at_last(world: RolloutWorld, version: str, **how: Any) -> dict[str, Any]:
    """Send requests until the stage is decided: how many that takes depends on their latencies, which are real."""
    deadline = time.monotonic() + 60
    while True:
        world.send(50)
        try:
            return settled(version, **how)
        except TaskDeferred:
            assert time.monotonic() < deadline


@pytest.fixture
def champion(rollout_world: RolloutWorld) -> str:
    version = rollout_world.register()
    deploy("run-0")
    promote(version, "run-0")
    return version


def test_a_first_version_skips_the_comparison(rollout_world: RolloutWorld) -> None:
    version = rollout_world.register()
    pushed: dict[str, Any] = {}
    with DAG("deploy", start_date=datetime(2013, 1, 1, tzinfo=UTC), schedule=None) as dag:
        operator = DeployModelOperator(
            task_id="deploy", model=MODEL, partition="2013-03", rival_task_ids=["shadow_settled", "shift_10"]
        )
        EmptyOperator(task_id="shadow_settled") >> EmptyOperator(task_id="shift_10") >> EmptyOperator(task_id="promote")
    ti = SimpleNamespace(
        task=dag.get_task("deploy"), map_index=-1, xcom_push=lambda *, key, value: pushed.update({key: value})
    )
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        operator.execute(context={**context(), "ti": ti})
    assert skipped.value.tasks == ["shadow_settled", "shift_10"]
    assert pushed["return_value"]["is_bootstrap"] is True
    found = promote(version)
    assert (found["outcome"], found["version"], found["previous"]) == ("bootstrap", version, None)


def test_a_good_challenger_becomes_champion(rollout_world: RolloutWorld, champion: str) -> None:
    version = rollout_world.register(bias=-0.9)
    found = deploy()
    assert (found["version"], found["champion"], found["is_bootstrap"]) == (version, champion, False)
    assert settled_at_last(rollout_world, version, stage="shadow")["verdict"] == "pass"
    shift(version, 50)
    assert settled_at_last(rollout_world, version, share_pct=50)["verdict"] == "pass"
    operator = PromoteModelOperator(
        task_id="promote", model=MODEL, version=version, outlets=[champion_asset(MODEL), closed_asset(MODEL)]
    )
    for _ in range(2):
        ran = context()
        found = operator.execute(context=ran)
        assert (found["outcome"], found["previous"]) == ("promote", champion)
        assert [event.extra for event in ran["outlet_events"].values()] == [found, found]
    assert rollout_world.send(5) == {version}
    assert (rollout_world.alias("champion"), rollout_world.alias("challenger")) == (version, None)
    assert rollout_world.ledger.entries()[-1].actor == f"deploy_{MODEL}:run-1"


def test_a_canary_that_fails_is_rolled_back_with_its_evidence(rollout_world: RolloutWorld, champion: str) -> None:
    version = rollout_world.register(is_fragile=True)
    deploy()
    shift(version, 50)
    assert rollout_world.send(40, **LONG) == {champion}  # nobody had to wait for the canary's failures
    with pytest.raises(GateError, match=r"canary of 'flight_delays' v\d+ at 50 %: errors: \d+ of \d+ requests failed"):
        settled(version, share_pct=50)
    operator = RollBackModelOperator(task_id="roll_back", model=MODEL, version=version, outlets=[closed_asset(MODEL)])
    ran = context()
    found = operator.execute(context=ran)
    assert (found["outcome"], found["version"], found["champion"]) == ("roll_back", version, champion)
    assert "requests failed" in found["reasons"][0]
    assert ran["outlet_events"][closed_asset(MODEL)].extra == found
    assert ran["outlet_events"][champion_asset(MODEL)].extra is None
    assert rollout_world.send(5) == {champion}
    assert (rollout_world.alias("champion"), rollout_world.alias("challenger")) == (champion, None)


def test_without_a_challenger_the_partition_is_closed_and_nothing_recorded(
    rollout_world: RolloutWorld, champion: str
) -> None:
    recorded = rollout_world.ledger.entries()
    operator = RollBackModelOperator(task_id="roll_back", model=MODEL, outlets=[closed_asset(MODEL)])
    ran = context()
    found = operator.execute(context=ran)
    assert (found["version"], found["outcome"], found["ledger_seq"]) == (None, "nothing to take out", None)
    assert ran["outlet_events"][closed_asset(MODEL)].extra == found
    assert rollout_world.ledger.entries() == recorded
    assert rollout_world.state.champion == champion


def told(*versions: str) -> dict[str, list[Any]]:
    """Return the events that started a run, the newest first."""
    events = [
        SimpleNamespace(timestamp=datetime(2013, 1, 1, 12, -number, tzinfo=UTC), extra={"version": version})
        for number, version in enumerate(versions, start=-len(versions))
    ]
    return {"challenger": events} if events else {}


@pytest.mark.parametrize(
    ("chosen", "param", "events", "expected"),
    [
        ({"version": "7"}, None, told("6"), "7"),
        ({"version": "7"}, "5", told(), "7"),
        (None, "5", told("6"), "5"),  # nothing was chosen: never the version that happens to have the alias
        (None, None, told("6"), "6"),
        (None, None, told("6", "4"), "6"),
        (None, None, told(), ""),  # the alias would have said it
    ],
)
def test_what_is_rolled_back_is_what_was_to_be_deployed(
    chosen: Any, param: str | None, events: Any, expected: str
) -> None:
    operator = RollBackModelOperator(task_id="roll_back", model=MODEL, version=ATTEMPTED_VERSION)
    ti = SimpleNamespace(xcom_pull=lambda *, task_ids: chosen if task_ids == "choose" else None)
    known = {"ti": ti, "params": {"version": param}, "triggering_asset_events": events}
    operator.render_template_fields(cast("Any", known))
    assert operator.version == expected


def test_what_is_approved_is_deployed_and_a_rejection_takes_out_no_other(
    rollout_world: RolloutWorld, champion: str
) -> None:
    asked = rollout_world.register()
    chosen = ChooseVersionOperator(task_id="choose", model=MODEL).execute(context())
    assert (chosen["version"], chosen["champion"]) == (asked, champion)
    newer = rollout_world.register()  # while a person thinks
    assert deploy(version=chosen["version"])["version"] == asked
    operator = RollBackModelOperator(task_id="roll_back", model=MODEL, version=asked, outlets=[closed_asset(MODEL)])
    assert operator.execute(context())["version"] == asked
    assert (rollout_world.state.shadow, rollout_world.alias("challenger")) == (None, newer)


def test_each_queued_run_deploys_the_version_of_its_event(rollout_world: RolloutWorld, champion: str) -> None:
    first, second = rollout_world.register(), rollout_world.register()
    for version, run in ((first, "run-1"), (second, "run-2")):
        choose = ChooseVersionOperator(task_id="choose", model=MODEL, version=version, skip_if_superseded="True")
        assert choose.execute(context(run))["version"] == version
        assert deploy(run, version=version, skip_if_superseded="True")["version"] == version
        shift(version, 50, run)
        promote(version, run)
    assert (rollout_world.state.champion, rollout_world.alias("challenger")) == (second, None)


def test_a_version_that_a_newer_one_overtook_is_skipped_and_not_refused(rollout_world: RolloutWorld) -> None:
    late = rollout_world.register(window_end="2013-03")
    newer = rollout_world.register(window_end="2013-05")
    deploy("run-0", version=newer)
    promote(newer, "run-0")
    said = f"v{late} must know data to 2013-05 as champion v{newer} does; got 2013-03: it is superseded"
    choose = ChooseVersionOperator(task_id="choose", model=MODEL, version=late, skip_if_superseded="True")
    with pytest.raises(AirflowSkipException, match=said):
        choose.execute(context())
    with pytest.raises(AirflowSkipException, match=said):
        deploy(version=late, skip_if_superseded="True")
    (entry,) = rollout_world.ledger.entries(MODEL, "superseded")
    assert (entry.subject, entry.evidence["by"], entry.actor) == (late, newer, f"deploy_{MODEL}:run-1")
    assert rollout_world.state.loaded == {newer}
    choose = ChooseVersionOperator(task_id="choose", model=MODEL, version=late, skip_if_superseded="False")
    assert choose.execute(context("manual"))["version"] == late
    with pytest.raises(GateError, match="Trigger with `force`"):
        deploy("manual", version=late, skip_if_superseded="False")


def test_a_stage_without_evidence_defers_and_carries_no_secret(rollout_world: RolloutWorld, champion: str) -> None:
    version = rollout_world.register()
    deploy()
    with pytest.raises(TaskDeferred) as deferred:
        settled(version, stage="shadow")
    assert deferred.value.method_name == "resume"
    _, kwargs = deferred.value.trigger.serialize()
    assert kwargs == {
        "model": MODEL,
        "version": version,
        "stage": "shadow",
        "share_pct": 0.0,
        "model_server_conn_id": "model_server_default",
    }


def test_a_server_that_is_away_is_waited_for(rollout_world: RolloutWorld, champion: str) -> None:
    version = rollout_world.register()
    deploy()
    rollout_world.server.kill()
    for wait_s in (0, 0.6):
        with pytest.raises(TaskDeferred):
            settled(version, stage="shadow", inline_wait_s=wait_s)
    assert [e for e in rollout_world.ledger.entries(MODEL, "shadow") if e.evidence["state"] == "ended"] == []


def test_a_wait_that_is_short_stays_in_the_worker(rollout_world: RolloutWorld, champion: str) -> None:
    version = rollout_world.register()
    deploy()
    with pytest.raises(TaskDeferred):
        settled(version, stage="shadow", inline_wait_s=0.6)  # looks twice, half a second apart
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(settled, version, stage="shadow", inline_wait_s=60.0)
        while not waiting.done():
            rollout_world.send(50)
    assert waiting.result()["verdict"] == "pass"


def test_what_the_trigger_decided_is_recorded_and_raised(rollout_world: RolloutWorld, champion: str) -> None:
    version = rollout_world.register()
    deploy()
    sensor = CanarySettledSensor(task_id="settled", model=MODEL, version=version, stage="shadow")
    event = {"verdict": "inconclusive", "reasons": ["challenger took 1 of 60 requests"], "evidence": {"elapsed_s": 9}}
    for _ in range(2):
        with pytest.raises(InconclusiveError, match="challenger took 1 of 60"):
            sensor.resume(context(), event)
    ended = [entry for entry in rollout_world.ledger.entries(MODEL, "shadow") if entry.evidence["state"] == "ended"]
    assert [entry.evidence["elapsed_s"] for entry in ended] == [9]


def test_routes_that_a_person_changed_fail_the_stage(rollout_world: RolloutWorld, champion: str) -> None:
    version = rollout_world.register()
    deploy()
    shift(version, 10)
    rollout_world.server.client.set_routes(model=MODEL, champion=champion)
    with pytest.raises(GateError, match="routes changed"):
        settled(version, share_pct=10)


@pytest.mark.parametrize("share_pct", [0, 100, 10.05])
def test_an_impossible_share_changes_nothing(rollout_world: RolloutWorld, champion: str, share_pct: float) -> None:
    version = rollout_world.register()
    deploy()
    with pytest.raises(BadInputError, match="The routes stay as they were"):
        shift(version, share_pct)
    assert rollout_world.state.shadow == version


def test_a_run_without_a_partition_key_is_refused(rollout_world: RolloutWorld) -> None:
    rollout_world.register()
    operator = DeployModelOperator(task_id="deploy", model=MODEL, partition="None")
    with pytest.raises(PartitionError, match="allowed: each month, such as 2013-01, from 2013-01 to 2013-12"):
        operator.execute(context=context())


def test_force_and_version_come_from_the_form(rollout_world: RolloutWorld) -> None:
    old = rollout_world.register(window_end="2013-01")
    promoted = rollout_world.register(window_end="2013-03")
    deploy("run-0")
    promote(promoted, "run-0")
    with pytest.raises(GateError, match="Trigger with `force`"):
        deploy(version=old)
    with pytest.raises(GateError, match="Trigger with `force`"):
        deploy(version=old, force="False")
    assert deploy(version=old, force="True")["version"] == old


def test_a_person_rolls_back_in_their_own_name(rollout_world: RolloutWorld, champion: str) -> None:
    version = rollout_world.register()
    deploy()
    shift(version, 10)
    promote(version)
    operator = RollBackModelOperator(
        task_id="roll_back",
        model=MODEL,
        scope="champion",
        reason="late alerts",
        outlets=[champion_asset(MODEL)],
    )
    ran = context("manual-1", person="ada", dag=f"rollback_{MODEL}")
    for _ in range(2):
        found = operator.execute(context=ran)
    assert (found["version"], found["champion"], found["reasons"]) == (champion, champion, ["late alerts"])
    assert rollout_world.ledger.entries()[-1].actor == f"ada by rollback_{MODEL}:manual-1"
    assert (rollout_world.state.champion, rollout_world.alias("champion")) == (champion, champion)
    assert ran["outlet_events"][champion_asset(MODEL)].extra == found
    again = RollBackModelOperator(task_id="roll_back", model=MODEL, scope="champion")
    with pytest.raises(NotFoundError, match="must have had a champion before"):
        again.execute(context=context("manual-2"))


@pytest.mark.parametrize("share_pct", [0, 10])
def test_a_roll_back_while_the_first_champion_is_challenged_takes_the_challenger_out(
    rollout_world: RolloutWorld, champion: str, share_pct: int
) -> None:
    version = rollout_world.register()
    deploy()
    if share_pct:
        shift(version, share_pct)
    operator = RollBackModelOperator(task_id="roll_back", model=MODEL, scope="champion", reason="looks wrong")
    for _ in range(2):  # killed and run again, it goes back once
        found = operator.execute(context=context("manual-1", person="ada", dag=f"rollback_{MODEL}"))
    assert (found["version"], found["champion"], found["reasons"]) == (champion, champion, ["looks wrong"])
    state = rollout_world.state
    assert (state.champion, state.canary, state.shadow) == (champion, None, None)
    assert [entry.kind for entry in rollout_world.ledger.entries()].count("roll_back") == 1
    with pytest.raises(GateError, match="must still be in the rollout"):
        promote(version)


def test_a_model_server_that_is_down_is_an_error_worth_a_retry(rollout_world: RolloutWorld) -> None:
    rollout_world.register()
    rollout_world.server.kill()
    with pytest.raises(ServiceError, match="Start it, then retry"):
        deploy()
