"""The server as its callers meet it: a process of its own, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from include.errors import BadInputError, CorruptArtifactError, GateError, NotFoundError, ServiceError, SetupError
from include.rollout.latency import NUM_BUCKETS
from include.serving.client import ModelServerClient, infer_body
from tests.include.serving.callers import Callers
from tests.running import MAX_END_S, ROOT, RunningModelServer
from tests.tiny_models import FRAGILE_DISTANCE, fill_online_store, request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage

MODEL = "flight_delays"


def post(server: RunningModelServer, body: bytes, *, path: str = f"/v2/models/{MODEL}/infer") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def send(server: RunningModelServer, num_requests: int, *, num_rows: int = 2, **changes: Any) -> list[dict[str, Any]]:
    return [
        server.client.infer(
            model=MODEL,
            columns={**request_columns(num_rows, first=number * num_rows), **changes},
            request_id=f"r{number}",
            sticky_key=f"k{number}",
        )
        for number in range(num_requests)
    ]


def counters(server: RunningModelServer) -> dict[str, dict[str, Any]]:
    return counters_of(server.client.get_routes(model=MODEL))


def counters_of(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["role"]: item for item in state["counters"]}


def scores(answer: dict[str, Any]) -> list[float]:
    return list(answer["outputs"][0]["data"])


def rows(server: RunningModelServer) -> list[dict[str, Any]]:
    return pq.read_table(server.storage.predictions(MODEL)).to_pylist()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited 10 s in vain"
        time.sleep(0.01)


def test_a_request_is_answered_by_the_protocol_and_logged(champion: RunningModelServer) -> None:
    columns = {**request_columns(3), "carrier": ["UA", "UA", "ZZ"], "tailnum": ["N1", "N-new", None]}
    answer = champion.client.infer(model=MODEL, columns=columns, request_id="r1")
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (MODEL, "1", "r1")
    assert answer["outputs"][0]["shape"] == [3]
    champion.client.flush()
    logged = rows(champion)
    assert [row["example_id"] for row in logged] == columns["example_id"]
    assert [row["probability"] for row in logged] == pytest.approx(scores(answer))
    assert [row["carrier_late_frac_28d"] for row in logged] == [0.2, 0.2, None]  # an entity never seen is missing
    assert [row["tail_late_frac_28d"] for row in logged] == [0.5, None, None]
    assert {(row["request_id"], row["model_version"], row["role"]) for row in logged} == {("r1", "1", "champion")}
    assert {"distance", "temp", "day_of_week"} <= set(logged[0])


def test_a_new_materialization_is_seen_at_once(champion: RunningModelServer) -> None:
    before = scores(send(champion, 1, carrier=["UA", "UA"])[0])
    fill_online_store(champion.storage, {"carrier_lateness": {"UA": (0.9, 90.0)}})
    assert scores(send(champion, 1, carrier=["UA", "UA"])[0])[0] > before[0]


def test_metadata_health_and_metrics(champion: RunningModelServer) -> None:
    def get(path: str) -> bytes:
        with urllib.request.urlopen(champion.url + path, timeout=10) as response:
            return bytes(response.read())

    own = f'model="{MODEL}",role="champion",version="1"'

    def told(text: str, name: str) -> float:
        (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, flags=re.MULTILINE) or ["0"]
        return float(value)

    before = get("/metrics").decode()
    send(champion, 2)
    assert json.loads(get("/v2"))["name"] == "tradewind"
    assert json.loads(get("/v2/health/live")) == {"live": True}
    assert json.loads(get("/v2/health/ready"))["ready"] is True
    assert json.loads(get(f"/v2/models/{MODEL}"))["versions"] == ["1"]
    assert json.loads(get(f"/v2/models/{MODEL}/ready"))["ready"] is True
    text = get("/metrics").decode()
    assert f'tradewind_scored_requests_total{{model="{MODEL}",outcome="ok",role="champion",version="1"}}' in text
    for name in (
        f"tradewind_lone_request_seconds_count{{{own}}}",
        f'tradewind_lone_request_seconds_bucket{{le="10.0",{own}}}',
    ):
        assert told(text, name) - told(before, name) == 2
    bucket = rf"^tradewind_lone_request_seconds_bucket\{{le=.*{re.escape(own)}\}}"
    buckets = re.findall(bucket, text, flags=re.MULTILINE)
    assert len(buckets) == NUM_BUCKETS
    assert f"tradewind_compared_requests_total{{{own}}} 0.0" in text
    assert f"tradewind_disagreements_total{{{own}}} 0.0" in text
    assert f'tradewind_route_share_pct{{model="{MODEL}",role="champion",version="1"}} 100.0' in text
    assert 'tradewind_http_answers_total{status="200"}' in text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda columns: columns.pop("carrier"), "got none named carrier"),
        (lambda columns: columns.update(carier=["AA"]), "allows the inputs"),
        (lambda columns: columns.update(distance=["far"]), "datatype"),
        (lambda columns: columns.update(distance=[None]), "a value in every row"),
        (lambda columns: columns.update(distance=[1.0, 2.0]), "one shape"),
        (lambda columns: [columns.update({name: []}) for name in list(columns)], "must have 1 to 1024 rows; got 0"),
    ],
    ids=["name missing", "name wrong", "type", "null", "shape", "empty batch"],
)
def test_a_bad_request_is_named_and_stops_nothing(
    champion: RunningModelServer, spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    columns = request_columns(1)
    spoil(columns)
    with pytest.raises(BadInputError, match=message):
        champion.client.infer(model=MODEL, columns=columns)
    assert len(send(champion, 1)) == 1
    assert counters(champion)["champion"]["errors"] == 0  # a caller's mistake is no failure of the version


def test_bodies_that_are_no_requests_stop_nothing(champion: RunningModelServer) -> None:
    good = json.dumps(infer_body(columns=request_columns(1)))
    for body, expected in (
        (b"", 400),
        (b"{", 400),
        (b"\xff\x00", 400),
        (good.replace('"data": [0.0]', '"data": [NaN]', 1).encode(), 400),
        (b'{"inputs": [' + b" " * (1 << 20) + b"]}", 413),
    ):
        status, answer = post(champion, body)
        assert (status, answer["kind"]) == (expected, "BadInputError")
    assert post(champion, good.encode(), path="/v2/models/unknown/infer")[0] == 404
    assert post(champion, good.encode(), path="/v2/nothing")[0] == 404
    assert post(champion, good.encode())[0] == 200


def test_too_many_rows_are_refused(champion: RunningModelServer) -> None:
    champion.client.infer(model=MODEL, columns=request_columns(1024))
    with pytest.raises(BadInputError, match="1 to 1024 rows; got 1025"):
        champion.client.infer(model=MODEL, columns=request_columns(1025))


def test_a_loaded_version_takes_no_traffic_until_it_is_routed(
    model_server: RunningModelServer, load: Callable[..., str]
) -> None:
    load("1")
    assert model_server.client.golden(model=MODEL, version="1")["passed"] is True
    with pytest.raises(ServiceError, match="must have a champion; got none"):
        send(model_server, 1)


def test_without_an_online_store_nothing_is_scored_in_silence(tmp_path: Path, storage: Storage) -> None:
    server = RunningModelServer(folder=tmp_path / "server", storage=storage)
    server.start()
    try:
        assert server.client.is_ready()  # nothing is deployed yet, so nothing is missing
        with pytest.raises(NotFoundError, match=r"served \(none\)"):
            send(server, 1)
        package = tiny_package(tmp_path / "package")
        server.client.load(model=MODEL, version="1", uri=package.uri, digest=package.digest)
        server.client.set_routes(model=MODEL, champion="1")
        assert not server.client.is_ready()
        with pytest.raises(ServiceError, match="Materialize a partition first"):
            send(server, 1)
        fill_online_store(storage, {})
        assert server.client.is_ready()
        assert len(send(server, 1)) == 1
    finally:
        server.stop()


def test_the_canary_answers_its_share_and_is_counted_apart(
    champion: RunningModelServer, load: Callable[..., str]
) -> None:
    champion.client.set_routes(model=MODEL, champion="1", canary=load("2", bias=0.0), canary_share_pct=50)
    first = [answer["model_version"] for answer in send(champion, 40)]
    assert [answer["model_version"] for answer in send(champion, 40)] == first  # sticky
    found = counters(champion)
    assert found["canary"]["requests"] == 2 * first.count("2") > 10
    assert found["champion"]["requests"] == 2 * first.count("1") > 10
    assert sum(found["canary"]["latency_counts"]) == found["canary"]["requests"]
    champion.client.flush()
    logged = [row["role"] for row in rows(champion)]
    assert logged.count("canary") == 4 * first.count("2")


def test_a_shadow_scores_copies_and_answers_nobody(champion: RunningModelServer, load: Callable[..., str]) -> None:
    champion.client.set_routes(model=MODEL, champion="1", shadow=load("2", bias=20.0))
    assert {answer["model_version"] for answer in send(champion, 20)} == {"1"}
    until(lambda: counters(champion).get("shadow", {}).get("requests") == 20)
    found = counters(champion)["shadow"]
    assert found["num_pairs"] == 20
    assert found["num_disagreements"] >= 10  # of the rows whose score is below 0.5
    champion.client.flush()
    logged = rows(champion)
    assert {(row["role"], row["model_version"]) for row in logged} == {("champion", "1"), ("shadow", "2")}
    assert len(logged) == 2 * 2 * 20


def test_a_canary_that_fails_is_counted_and_its_callers_get_the_champion(
    champion: RunningModelServer, load: Callable[..., str]
) -> None:
    champion.client.set_routes(model=MODEL, champion="1", canary=load("2", is_fragile=True), canary_share_pct=99.9)
    long = [FRAGILE_DISTANCE + 1] * 2
    assert {answer["model_version"] for answer in send(champion, 5, distance=long)} == {"1"}
    found = counters(champion)
    assert (found["canary"]["requests"], found["canary"]["errors"]) == (5, 5)
    assert "champion" not in found  # it stood in for the canary, which says nothing about itself
    champion.client.flush()
    assert [row["role"] for row in rows(champion)] == ["champion"] * 2 * 5


def test_a_champion_that_fails_is_an_error_of_the_server(
    model_server: RunningModelServer, load: Callable[..., str]
) -> None:
    model_server.client.set_routes(model=MODEL, champion=load("1", is_fragile=True))
    with pytest.raises(ServiceError, match="could not score"):
        send(model_server, 1, distance=[FRAGILE_DISTANCE + 1] * 2)
    assert counters(model_server)["champion"]["errors"] == 1
    assert len(send(model_server, 1)) == 1


def test_a_damaged_package_is_never_loaded(champion: RunningModelServer, tmp_path: Path) -> None:
    client = champion.client
    package = tiny_package(tmp_path / "broken")
    graph = Path(package.uri) / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-10])
    with pytest.raises(CorruptArtifactError, match=r"model.onnx must match its recorded digest"):
        client.load(model=MODEL, version="2", uri=package.uri, digest=package.digest)
    other = tiny_package(tmp_path / "other", bias=0.5)
    with pytest.raises(CorruptArtifactError, match="must have the registered digest"):
        client.load(model=MODEL, version="2", uri=other.uri, digest=package.digest)
    nonsense = tiny_package(tmp_path / "nonsense", replaced={"model.onnx": b"no graph"})
    with pytest.raises(CorruptArtifactError, match="and golden rows that run"):
        client.load(model=MODEL, version="2", uri=nonsense.uri, digest=nonsense.digest)
    with pytest.raises(NotFoundError):
        client.load(model=MODEL, version="2", uri=str(tmp_path / "nowhere"), digest="x")
    assert set(client.get_routes(model=MODEL)["versions"]) == {"1"}
    assert len(send(champion, 1)) == 1


def test_a_version_of_other_inputs_is_refused(champion: RunningModelServer, tmp_path: Path) -> None:
    encoding = json.dumps({"vocabulary": {"carrier": ["AA"]}, "numeric": ["distance"]}).encode()
    package = tiny_package(tmp_path / "other", replaced={"encoding.json": encoding})
    with pytest.raises(BadInputError, match=r"trained on the inputs that model.yaml declares"):
        champion.client.load(model=MODEL, version="2", uri=package.uri, digest=package.digest)


def test_golden_rows_that_differ_are_said_so(champion: RunningModelServer, load: Callable[..., str]) -> None:
    with pytest.raises(GateError, match=r"must be within 0.001 of the recorded scores; got 0.01 over 20 rows"):
        load("2", golden_error=0.01)
    found = champion.client.golden(model=MODEL, version=load("3", golden_error=0.0005))
    assert found["passed"] is True
    assert found["max_abs_diff"] == pytest.approx(0.0005, abs=1e-4)
    assert 0 < found["latency_median_ms"] <= found["latency_p95_ms"]
    with pytest.raises(NotFoundError, match="must be loaded"):
        champion.client.golden(model=MODEL, version="9")


def test_admin_calls_are_idempotent(champion: RunningModelServer, load: Callable[..., str]) -> None:
    client = champion.client
    send(champion, 3)
    before = client.get_routes(model=MODEL)
    load("1")
    client.set_routes(model=MODEL, champion="1")
    after = client.get_routes(model=MODEL)
    assert {**after, "age_s": 0} == {**before, "age_s": 0}
    load("2")
    client.unload(model=MODEL, version="2")
    assert set(client.unload(model=MODEL, version="2")["versions"]) == {"1"}


def test_routed_versions_are_neither_unloaded_nor_replaced(champion: RunningModelServer, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="must take no traffic to be unloaded; got champion"):
        champion.client.unload(model=MODEL, version="1")
    other = tiny_package(tmp_path / "other", bias=0.5)
    with pytest.raises(BadInputError, match="must keep its package while it takes traffic"):
        champion.client.load(model=MODEL, version="1", uri=other.uri, digest=other.digest)


def test_routes_name_loaded_versions_only(champion: RunningModelServer) -> None:
    with pytest.raises(BadInputError, match=r"loaded versions \(1\); got 7"):
        champion.client.set_routes(model=MODEL, champion="7")
    with pytest.raises(BadInputError, match="together"):
        champion.client.set_routes(model=MODEL, champion="1", canary_share_pct=10)
    assert champion.client.get_routes(model=MODEL)["routes"]["champion"] == "1"


def test_routes_that_somebody_else_changed_are_not_overwritten(
    champion: RunningModelServer, load: Callable[..., str]
) -> None:
    revision = champion.client.get_routes(model=MODEL)["revision"]
    champion.client.set_routes(model=MODEL, champion="1", shadow=load("2"), if_revision=revision)
    with pytest.raises(ServiceError, match="somebody changed them"):
        champion.client.set_routes(model=MODEL, champion="2", if_revision=revision)
    assert champion.client.get_routes(model=MODEL)["routes"]["champion"] == "1"


def test_admin_calls_need_the_token(champion: RunningModelServer) -> None:
    for token in ("", "wrong", "tökén"):
        client = ModelServerClient(base_url=champion.url, admin_token=token)
        with pytest.raises((SetupError, UnicodeEncodeError)):
            client.get_routes(model=MODEL)
        with pytest.raises((SetupError, UnicodeEncodeError)):
            client.set_routes(model=MODEL, champion=None)
    assert post(champion, b"{}", path="/v2/router/flush")[0] == 401
    assert champion.client.get_routes(model=MODEL)["routes"]["champion"] == "1"


def test_without_a_token_file_no_admin_call_works(tmp_path: Path, storage: Storage) -> None:
    server = RunningModelServer(folder=tmp_path / "server", storage=storage, has_token=False)
    server.start()
    try:
        with pytest.raises(SetupError, match="started with --token-file"):
            server.client.get_routes(model=MODEL)
    finally:
        server.stop()


def test_kill_minus_nine_loses_no_route_no_count_and_no_answer(
    champion: RunningModelServer, load: Callable[..., str]
) -> None:
    client = champion.client
    client.set_routes(model=MODEL, champion="1", canary=load("2"), canary_share_pct=50, shadow=load("3"))
    assert {answer["model_version"] for answer in send(champion, 20)} == {"1", "2"}
    until(lambda: counters(champion).get("shadow", {}).get("requests") == 20)
    before, asked_at_s = client.get_routes(model=MODEL), time.monotonic()
    champion.kill()  # within the two seconds in which nothing of this is in a file yet
    with pytest.raises(ServiceError, match="routes outlive a restart"):
        client.get_routes(model=MODEL)
    champion.start()
    after, passed_s = client.get_routes(model=MODEL), time.monotonic() - asked_at_s
    for name in ("routes", "revision", "versions", "counters"):
        assert after[name] == before[name], name
    assert before["age_s"] <= after["age_s"] < before["age_s"] + passed_s  # but for the time that it was away
    client.flush()
    logged = [row["request_id"] for row in rows(champion) if row["role"] != "shadow"]
    assert sorted(logged) == sorted(f"r{number}" for number in range(20) for _ in range(2))
    send(champion, 20)
    assert counters(champion)["champion"]["requests"] == 2 * counters_of(before)["champion"]["requests"]


def test_a_graceful_restart_goes_on_counting(champion: RunningModelServer) -> None:
    send(champion, 10)
    before = counters(champion)
    assert champion.stop() == 0
    champion.start()
    assert counters(champion) == before
    assert before["champion"]["requests"] == 10


def test_a_package_that_was_damaged_meanwhile_keeps_no_other_from_serving(
    champion: RunningModelServer, load: Callable[..., str], tmp_path: Path
) -> None:
    champion.client.set_routes(model=MODEL, champion="1", canary=load("2"), canary_share_pct=50)
    champion.kill()
    (tmp_path / "package-2" / "golden.json").write_text("{}")
    champion.start(wait_ready=False)
    until(lambda: champion.client.get_routes(model=MODEL)["versions"]["1"]["error"] is None)
    found = champion.client.get_routes(model=MODEL)["versions"]["2"]["error"]
    assert "golden.json must match its recorded digest" in found
    assert not champion.client.is_ready()
    assert {answer["model_version"] for answer in send(champion, 10)} == {"1"}  # also those of the canary's keys
    assert "canary" not in counters(champion)  # what is not loaded did not fail


def test_a_terminated_server_answers_what_it_began_and_writes_its_log(champion: RunningModelServer) -> None:
    callers = Callers(champion, num_callers=1, num_rows=2)
    callers.answered(20)
    assert champion.stop() == 0
    callers.join()
    assert (callers.dropped, len(callers.refused)) == ([], 1)
    assert len(rows(champion)) == 2 * len(callers.answers)


def test_a_disk_that_takes_no_files_loses_neither_answers_nor_rows(champion: RunningModelServer) -> None:
    folder = Path(champion.storage.predictions(MODEL))
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file where the folder should be: no row can be written")
    assert len(send(champion, 5)) == 5
    with pytest.raises(ServiceError, match=r"must be in files within 60 s; got 10 rows that wait"):
        champion.client.flush()
    assert len(send(champion, 5)) == 5
    folder.unlink()
    assert champion.client.flush()["pending_rows"] == 0
    assert len(rows(champion)) == 20


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "include.serving", "--state", str(tmp_path / "state"), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)

    return run


def test_what_prevents_a_start_is_named(
    model_server: RunningModelServer, started: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    storage = ("--storage", str(tmp_path))
    taken = started("--port", str(model_server.port), *storage)
    assert (taken.returncode, "Stop what holds it, or name another port" in taken.stderr) == (78, True)
    no_token = started("--port", "0", *storage, "--token-file", str(tmp_path / "none"))
    assert (no_token.returncode, "Write a random token" in no_token.stderr) == (78, True)
    remote = started("--port", "0", "--storage", "s3://bucket/lake")
    assert (remote.returncode, "Name a folder" in remote.stderr) == (78, True)
    twice = started("--port", "0", *storage, "--state", str(model_server.folder / "state"))
    assert (twice.returncode, "must belong to one server" in twice.stderr) == (78, True)
    (tmp_path / "state" / "router.json").write_text("{")
    damaged = started("--port", "0", *storage)
    assert (damaged.returncode, "must be readable JSON" in damaged.stderr) == (78, True)


def test_it_listens_on_loopback_only(model_server: RunningModelServer) -> None:
    assert model_server.process is not None
    sockets = Path("/proc/net/tcp").read_text().splitlines()[1:]
    local = [line.split()[1] for line in sockets if line.split()[3] == "0A"]
    assert [a for a in local if a.endswith(f":{model_server.port:04X}")] == [f"0100007F:{model_server.port:04X}"]
    os.kill(model_server.process.pid, signal.SIGINT)
    assert model_server.process.wait(timeout=MAX_END_S) == 0
