"""The engine without HTTP: what is served while it starts, and what a change may not do to callers."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from include.errors import BadInputError, ServiceError
from include.features.encoding import Encoding
from include.serving.app import make_app
from include.serving.client import infer_body
from include.serving.engine import Engine
from include.serving.features import FeatureLookup
from include.serving.journal import Journal
from include.serving.limits import Admission
from include.serving.log_files import SegmentFiles
from include.serving.metrics import ServerMetrics
from include.serving.prediction_log import PredictionLog
from include.serving.router import Router, Routes
from include.serving.scoring import Asked
from include.serving.shadow import GATHER, MAX_PENDING, Mirror
from include.serving.token import AdminToken
from include.serving.version_checks import require_champions_inputs
from tests.tiny_models import fill_online_store, request_columns, tiny_encoding, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.lake.storage import Storage
    from include.serving.scoring import Scored
    from include.serving.versions import LoadedVersion

MODEL = "flight_delays"
CANARY_ROUTES = Routes(champion="1", canary="2", canary_share_pct=99.9, shadow="3")


@dataclass(kw_only=True)
class WatchedEngine(Engine):
    """Remembers what was served whenever a version was about to be loaded; fails to load some, or alters them."""

    broken: dict[str, Exception] = field(default_factory=dict)
    encodings: dict[str, Encoding] = field(default_factory=dict)
    served_before: list[set[str]] = field(default_factory=list)

    def load(self, *, model: str, version: str, uri: str, digest: str) -> LoadedVersion:
        self.served_before.append(set(self.models[model].versions) if model in self.models else set())
        if version in self.broken:
            raise self.broken[version]
        loaded = super().load(model=model, version=version, uri=uri, digest=digest)
        return replace(loaded, encoding=self.encodings.get(version, loaded.encoding))


@pytest.fixture
def make(tmp_path: Path, storage: Storage) -> Iterator[Callable[..., WatchedEngine]]:
    """Return a function that makes an engine whose router remembers versions 1 to 3 of the tests' model."""
    made: list[WatchedEngine] = []

    def start(*, broken: dict[str, Exception] | None = None, model: str = MODEL) -> WatchedEngine:
        fill_online_store(storage, {})
        router = Router(path=tmp_path / "router.json")
        for version in ("1", "2", "3"):
            package = tiny_package(tmp_path / version)
            router.set_version(model, version, {"uri": package.uri, "digest": package.digest})
        router.set_routes(model, CANARY_ROUTES)
        files = SegmentFiles(folder_of=storage.predictions)
        log = PredictionLog(journal=Journal(folder=tmp_path / "journal"), turner=files)
        engine = WatchedEngine(
            router=router,
            lookup=FeatureLookup(storage=storage),
            log=log,
            metrics=ServerMetrics(router=router, log=log),
            max_rows=8,
            num_threads=1,
            broken=broken or {},
        )
        made.append(engine)
        return engine

    yield start
    for engine in made:
        engine.close()


def one(engine: Engine, body: bytes) -> Scored:
    """Return what a batch of one request comes to."""
    (found,) = engine.score(MODEL, [Asked(body)])
    if isinstance(found, Exception):
        raise found
    return found


def score(engine: Engine, *, num_requests: int = 20) -> set[str]:
    """Return the versions that answered; all of it is counted, and nothing is left to the shadow's thread."""
    versions = set()
    for number in range(num_requests):
        body = json.dumps(infer_body(columns=request_columns(1), sticky_key=f"k{number}")).encode()
        scored = one(engine, body)
        engine.account([scored])
        assert scored.answer is not None
        versions.add(json.loads(scored.answer.body)["model_version"])
    return versions


def counted(engine: Engine) -> dict[tuple[str, str], tuple[int, int]]:
    return {key: (window.requests, window.errors) for key, window in engine.counted(MODEL).windows.items()}


def test_a_model_is_restored_in_one_step(make: Callable[..., WatchedEngine]) -> None:
    engine = make()
    with pytest.raises(ServiceError, match="must be loaded; it is not yet"):
        score(engine)
    engine.restore(MODEL)
    assert engine.served_before == [set(), set(), set()]
    assert set(engine.models[MODEL].versions) == {"1", "2", "3"}
    assert engine.unready() == []
    assert "2" in score(engine)


def test_a_model_is_ready_when_its_versions_are_warm(
    make: Callable[..., WatchedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make()
    is_begun, may_end = threading.Event(), threading.Event()

    def warm_up(_loaded: LoadedVersion, *, max_rows: int) -> bool:
        is_begun.set()
        return may_end.wait(20) and max_rows > 0

    async def restore() -> list[str]:
        engine.start_restoring()
        assert await asyncio.to_thread(is_begun.wait, 20)
        reasons = engine.unready()
        may_end.set()
        await engine.restoring[MODEL]
        return reasons

    monkeypatch.setattr("include.serving.versions._warm_up", warm_up)
    assert asyncio.run(restore()) == [f"model {MODEL!r} is being restored"]
    assert engine.unready() == []


def test_readiness_waits_for_no_request(make: Callable[..., WatchedEngine]) -> None:
    engine = make()

    async def ask() -> dict[str, Any]:
        app = make_app(engine=engine, admin_token=None, max_body_bytes=1 << 20, admission=Admission())
        async with TestClient(TestServer(app)) as client:
            await asyncio.gather(*engine.restoring.values())
            is_answered = threading.Event()
            busy = engine.pool.submit(is_answered.wait, 20)
            answer: dict[str, Any] = await (await client.get("/v2/health/ready")).json()
            assert not busy.done()
            is_answered.set()
            return answer

    assert asyncio.run(ask()) == {"ready": True, "reasons": []}


@pytest.mark.parametrize("problem", [OSError("disk gone"), ServiceError("store gone")])
def test_a_canary_that_is_not_loaded_is_no_canary_that_failed(
    make: Callable[..., WatchedEngine], problem: Exception
) -> None:
    engine = make(broken={"2": problem})
    engine.restore(MODEL)
    assert score(engine) == {"1"}
    assert counted(engine) == {("1", "champion"): (20, 0)}
    assert "gone" in engine.models[MODEL].failures["2"]
    assert engine.unready() == [f"version 2 of model {MODEL!r} is routed and not loaded"]


def test_a_champion_that_is_not_loaded_is_named_and_not_counted(make: Callable[..., WatchedEngine]) -> None:
    engine = make(broken={"1": OSError("disk gone"), "2": OSError("disk gone")})
    engine.restore(MODEL)
    with pytest.raises(ServiceError, match=r"version 1 .* must be loaded to score as champion; it is not"):
        score(engine)
    assert engine.counted(MODEL).windows == {}


def test_a_shadow_that_is_not_loaded_is_not_counted(make: Callable[..., WatchedEngine]) -> None:
    engine = make(broken={"3": OSError("disk gone")})
    engine.restore(MODEL)
    body = json.dumps(infer_body(columns=request_columns(1))).encode()

    async def infer() -> None:
        await engine.infer(MODEL, Asked(body))
        await engine.infer(MODEL, Asked(body))

    asyncio.run(infer())
    engine.close()  # waits for what the shadow's thread has begun
    assert set(counted(engine)) <= {("1", "champion"), ("2", "canary")}


def test_a_model_whose_spec_is_gone_keeps_no_other_from_serving(make: Callable[..., WatchedEngine]) -> None:
    engine = make(model="a_model_of_old")
    package = engine.router.state("a_model_of_old").versions["1"]
    engine.router.set_version(MODEL, "1", package)
    engine.router.set_routes(MODEL, Routes(champion="1"))
    engine.restore(MODEL)
    assert score(engine) == {"1"}
    assert "version 1 of model 'a_model_of_old' is routed and not loaded" in engine.unready()


def other_encoding(*, renamed: str = "temp", is_recast: bool = False) -> Encoding:
    encoding = tiny_encoding()
    if is_recast:
        vocabulary = {**encoding.vocabulary, renamed: ("a",)}
        return Encoding(vocabulary=vocabulary, numeric=tuple(n for n in encoding.numeric if n != renamed))
    return replace(encoding, numeric=tuple("gust" if name == renamed else name for name in encoding.numeric))


@pytest.mark.parametrize(
    ("encoding", "names"), [(other_encoding(), "gust, temp"), (other_encoding(is_recast=True), "temp")]
)
def test_the_champions_callers_keep_their_inputs(
    make: Callable[..., WatchedEngine], tmp_path: Path, encoding: Encoding, names: str
) -> None:
    engine = make()
    engine.encodings["4"] = encoding
    package = dict(engine.router.state(MODEL).versions["1"])

    async def load() -> tuple[int, dict[str, Any], dict[str, Any]]:
        (tmp_path / "token").write_text("t")
        token = AdminToken(path=tmp_path / "token")
        app = make_app(engine=engine, admin_token=token, max_body_bytes=1 << 20, admission=Admission())
        async with TestClient(TestServer(app), headers={"Authorization": "Bearer t"}) as client:
            refused = await client.put(f"/v2/router/{MODEL}/versions/4", json=package)
            scored = await client.post(f"/v2/models/{MODEL}/infer", json=infer_body(columns=request_columns(1)))
            return refused.status, await refused.json(), await scored.json()

    status, answer, scored = asyncio.run(load())
    assert (status, answer["kind"]) == (400, "BadInputError")
    assert f"inputs and the label of champion 1; got a difference in {names}. It was not loaded" in answer["error"]
    assert "Give the model a new name, or route nothing first" in answer["error"]
    assert scored["model_name"] == MODEL
    assert set(engine.router.state(MODEL).versions) == set(engine.models[MODEL].versions) == {"1", "2", "3"}


def test_a_model_yaml_that_asks_callers_for_other_inputs_is_refused_too(make: Callable[..., WatchedEngine]) -> None:
    engine = make()
    engine.restore(MODEL)
    served = engine.models[MODEL]
    inputs = {name: declared for name, declared in served.reader.inputs.items() if name != "tailnum"}
    served = replace(served, reader=replace(served.reader, inputs=inputs))
    with pytest.raises(BadInputError, match="got a difference in tailnum"):
        require_champions_inputs(replace(served.versions["1"], version="4"), served=served, max_rows=engine.max_rows)


def test_other_inputs_may_come_when_nothing_is_routed(make: Callable[..., WatchedEngine]) -> None:
    engine = make()
    engine.restore(MODEL)
    other = replace(engine.models[MODEL].versions["1"], version="4", encoding=other_encoding())
    engine.route(MODEL, Routes())
    require_champions_inputs(other, served=engine.models[MODEL], max_rows=engine.max_rows)
    engine.add(other)
    engine.route(MODEL, Routes(champion="4"))
    with pytest.raises(BadInputError, match=r"must name loaded versions \(4\); got 1"):
        engine.route(MODEL, Routes(champion="1"))
    assert "inputs are not those of version 4" in engine.models[MODEL].failures["1"]


def test_a_version_of_the_same_inputs_is_welcome(make: Callable[..., WatchedEngine]) -> None:
    engine = make()
    engine.restore(MODEL)
    loaded = replace(engine.models[MODEL].versions["1"], version="4")
    require_champions_inputs(loaded, served=engine.models[MODEL], max_rows=engine.max_rows)
    engine.add(loaded)
    assert set(engine.models[MODEL].versions) == {"1", "2", "3", "4"}


async def mirror_for_a_while(scored: Scored, *, is_busy: bool) -> tuple[int, int]:
    """Offer 64 copies every 2 ms for 0.4 s; return how many were scored and how many dropped."""
    done: list[int] = []
    dropped: list[int] = []
    mirror = Mirror(done=lambda batch: done.append(len(batch)), dropped=dropped.append, is_busy=lambda: is_busy)
    for _ in range(200):
        mirror.copy([scored] * 64)
        await asyncio.sleep(0.002)
    mirror.close()
    return sum(done), sum(dropped)


def test_a_shadow_takes_little_time_from_callers_that_wait(make: Callable[..., WatchedEngine]) -> None:
    engine = make()
    engine.restore(MODEL)
    scored = one(engine, json.dumps(infer_body(columns=request_columns(1))).encode())

    all_scored, none_dropped = asyncio.run(mirror_for_a_while(scored, is_busy=False))
    few_scored, many_dropped = asyncio.run(mirror_for_a_while(scored, is_busy=True))
    assert 0 < few_scored < 0.5 * all_scored
    assert many_dropped > none_dropped


def test_whether_a_shadow_gets_a_batch_does_not_depend_on_its_size(make: Callable[..., WatchedEngine]) -> None:
    engine = make()
    engine.restore(MODEL)
    scored = one(engine, json.dumps(infer_body(columns=request_columns(1))).encode())
    dropped: list[int] = []

    async def offer(*sizes: int) -> None:
        mirror = Mirror(done=lambda _batch: None, dropped=dropped.append, is_busy=lambda: False)
        for size in (GATHER, *sizes):  # the first ones are begun, and nothing else is while this goes on
            mirror.copy([scored] * size)
        mirror.close()

    asyncio.run(offer(MAX_PENDING - 1, 64))
    assert dropped == []
    asyncio.run(offer(MAX_PENDING, 1, 64))
    assert dropped == [1, 64]


def test_a_shadow_is_timed_once_a_turn_whether_or_not_the_champion_was(make: Callable[..., WatchedEngine]) -> None:
    engine = make()
    engine.restore(MODEL)
    engine.route(MODEL, Routes(champion="1", shadow="3"))
    scored = one(engine, json.dumps(infer_body(columns=request_columns(1))).encode())
    untimed = replace(scored, outcomes=(replace(scored.outcomes[0], latency_ms=None),))
    found: list[Scored] = []

    async def copy() -> None:
        mirror = Mirror(done=found.extend, dropped=lambda _num: None, is_busy=lambda: False)
        mirror.copy([replace(untimed) for _ in range(GATHER)])
        mirror.close()
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(copy(), 20))
    assert sorted(shadowed.outcomes[0].latency_ms is not None for shadowed in found) == [False] * (GATHER - 1) + [True]


def test_a_slow_shadow_scores_one_copy_of_a_turn_and_keeps_no_other_shadow_waiting(
    make: Callable[..., WatchedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.serving.shadow.BUSY_S", 0.0)  # as if each copy took longer
    monkeypatch.setattr("include.serving.shadow.BUSY_SHARE", 1e-6)
    engine = make()
    engine.restore(MODEL)
    body = json.dumps(infer_body(columns=request_columns(1))).encode()
    found: list[Scored] = []

    async def copy() -> None:
        mirror = Mirror(done=found.extend, dropped=lambda _num: None, is_busy=lambda: True)
        for shadow in ("3", "3", "2"):
            engine.route(MODEL, Routes(champion="1", shadow=shadow))
            scored = one(engine, body)
            mirror.copy([replace(scored) for _ in range(GATHER)])
            await asyncio.sleep(0.2)
        mirror.close()

    asyncio.run(copy())
    assert [(shadowed.outcomes[0].version, shadowed.outcomes[0].latency_ms is not None) for shadowed in found] == [
        ("3", True),  # and then it rests
        ("2", True),
    ]


async def answer_at_once(engine: Engine, num_requests: int) -> None:
    """Have requests scored in one turn, and their copies by the shadow."""
    bodies = [
        json.dumps(infer_body(columns=request_columns(1), sticky_key=f"k{number}")).encode()
        for number in range(num_requests)
    ]
    await asyncio.gather(*(engine.infer(MODEL, Asked(body)) for body in bodies))
    for _ in range(20_000):
        if counted(engine).get(("3", "shadow"), (0, 0))[0] == num_requests:
            return
        await asyncio.sleep(0.001)
    raise TimeoutError("the shadow scored no copies")


@pytest.mark.parametrize(("champion_pct", "timed"), [(100.0, {"1", "3"}), (0.1, {"2"})])
def test_a_turn_counts_one_latency_and_the_shadow_that_of_the_same_request(
    make: Callable[..., WatchedEngine], champion_pct: float, timed: set[str]
) -> None:
    engine = make()
    engine.restore(MODEL)
    canary = {"canary": "2", "canary_share_pct": 100 - champion_pct} if champion_pct < 100 else {}
    engine.route(MODEL, Routes(champion="1", shadow="3", **canary))
    asyncio.run(answer_at_once(engine, 16))
    windows = engine.counted(MODEL).windows
    assert sum(window.requests for (_, role), window in windows.items() if role != "shadow") == 16
    assert {version: sum(found.latency_counts) for (version, _), found in windows.items() if version in timed} == (
        dict.fromkeys(timed, 1)
    )
    assert sum(sum(found.latency_counts) for found in windows.values()) == len(timed)
    assert all(sum(found.latency_counts) == (found.latency_sum_ms > 0) for found in windows.values())
    metrics = engine.metrics.text().decode()
    found = [line.split() for line in metrics.splitlines() if line.startswith("tradewind_lone_request_seconds_count")]
    assert sum(float(value) for *_, value in found) == len(timed)
