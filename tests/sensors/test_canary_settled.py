from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from include.rollout.decision import Verdict
from include.rollout.local import LocalTarget
from include.spec import load_spec
from sensors.triggers import canary_settled
from sensors.triggers.canary_settled import CanarySettledTrigger
from tests.running import ROOT
from tests.tiny_models import request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.running import RunningModelServer

MODEL = "flight_delays"
ROLLOUT = load_spec(MODEL).rollout


def trigger(*, stage: Any = "canary", share_pct: float = 50.0, version: str = "2") -> CanarySettledTrigger:
    return CanarySettledTrigger(
        model=MODEL, version=version, stage=stage, share_pct=share_pct, model_server_conn_id="model_server_default"
    )


async def event_of(
    trigger: CanarySettledTrigger,
    *,
    meanwhile: Callable[[], Any] | None = None,
    sent_to: RunningModelServer | None = None,
) -> Any:
    """Return what a trigger sends; `meanwhile` runs beside it, then a server gets requests until it is decided."""
    waiting = asyncio.ensure_future(anext(trigger.run()))
    if meanwhile is not None:
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await asyncio.to_thread(meanwhile)
    deadline = time.monotonic() + 60
    while sent_to is not None and not waiting.done():  # how many it takes depends on latencies, which are real
        assert time.monotonic() < deadline
        await asyncio.to_thread(send, sent_to, 40)
    return (await asyncio.wait_for(waiting, 20)).payload


@pytest.fixture
def canary(model_server: RunningModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningModelServer:
    client = model_server.client
    connection = (
        f'{{"conn_type": "http", "host": "127.0.0.1", "port": {model_server.port}, "password": "{client.admin_token}"}}'
    )
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_SERVER_DEFAULT", connection)
    for version in ("1", "2"):
        package = tiny_package(tmp_path / version, is_fragile=version == "2")
        client.load(model=MODEL, version=version, uri=package.uri, digest=package.digest)
    LocalTarget(client=client).promote(model=MODEL, version="1")
    LocalTarget(client=client).set_share(model=MODEL, version="2", share_pct=50.0)
    return model_server


def send(server: RunningModelServer, num_requests: int, **changes: Any) -> None:
    for number in range(num_requests):
        columns = {**request_columns(2), **changes}
        server.client.infer(model=MODEL, columns=columns, sticky_key=f"key-{number}")


def needed(found: dict[str, Any]) -> dict[str, Any]:
    measures = found["evidence"]["measures"]
    return {name: measures[name] for name in ("errors", "latency")}


def test_it_waits_for_evidence_and_sends_the_decision(canary: RunningModelServer) -> None:
    found = asyncio.run(event_of(trigger(), meanwhile=lambda: send(canary, 40), sent_to=canary))
    assert (found["verdict"], found["reasons"]) == ("pass", ["every measure is within its margin"])
    assert all(measure["not_worse"] >= found["evidence"]["pass_at"] for measure in needed(found).values())


def test_evidence_that_is_there_is_decided_at_once(canary: RunningModelServer) -> None:
    send(canary, 40, distance=[9999.0] * 2)
    found = asyncio.run(event_of(trigger()))
    assert found["verdict"] == "fail"
    assert re.match(r"errors: (\d+) of \1 requests failed", found["reasons"][0])


def test_what_a_dead_triggerer_saw_is_seen_by_the_next(canary: RunningModelServer) -> None:
    first = trigger()

    async def cancelled() -> None:
        waiting = asyncio.ensure_future(anext(first.run()))
        await asyncio.sleep(0.2)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(cancelled())
    send(canary, 320)
    _, kwargs = first.serialize()
    found = asyncio.run(event_of(CanarySettledTrigger(**kwargs), sent_to=canary))
    assert found["verdict"] == "pass"
    assert sum(counted["requests"] for counted in found["evidence"]["counters"].values()) >= 320


def test_a_server_that_restarts_meanwhile_is_waited_for(canary: RunningModelServer) -> None:
    def restart() -> None:
        canary.kill()
        canary.start()

    assert asyncio.run(event_of(trigger(), meanwhile=restart, sent_to=canary))["verdict"] == "pass"


def test_a_version_that_is_not_routed_fails(canary: RunningModelServer) -> None:
    assert asyncio.run(event_of(trigger(stage="shadow")))["verdict"] == "fail"
    assert asyncio.run(event_of(trigger(version="7")))["verdict"] == "fail"


@pytest.mark.parametrize(
    ("silent_s", "on_inconclusive", "expected"),
    [
        (ROLLOUT.step_timeout_s - 0.1, "roll_back", Verdict.KEEP_WAITING),
        (ROLLOUT.step_timeout_s, "roll_back", Verdict.INCONCLUSIVE),
        (ROLLOUT.step_timeout_s, "hold", Verdict.KEEP_WAITING),
    ],
)
def test_a_server_that_is_silent_for_too_long_is_inconclusive(
    silent_s: float, on_inconclusive: str, expected: Verdict
) -> None:
    rollout = ROLLOUT.model_copy(update={"on_inconclusive": on_inconclusive})
    assert canary_settled._unheard(silent_s=silent_s, rollout=rollout).verdict is expected


def test_the_trigger_is_made_again_from_what_it_serializes() -> None:
    path, kwargs = trigger().serialize()
    assert path == f"{CanarySettledTrigger.__module__}.{CanarySettledTrigger.__qualname__}"
    assert CanarySettledTrigger(**kwargs).serialize() == (path, kwargs)


def test_its_module_loads_nothing_heavy() -> None:
    code = (
        "import sys, airflow.triggers.base, airflow.sdk; before = set(sys.modules); "
        "import sensors.triggers.canary_settled; "
        "heavy = {'torch', 'onnxruntime', 'mlflow', 'feast', 'pandas', 'numpy', 'pyarrow', 'duckdb', 'deltalake'}; "
        "print(sorted((set(sys.modules) - before) & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
