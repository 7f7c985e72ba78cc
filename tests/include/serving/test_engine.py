"""The engine without HTTP: what is served while it starts, and what a change may not do to callers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import ServiceError
from include.serving.client import infer_body
from include.serving.engine import Engine
from include.serving.features import FeatureLookup
from include.serving.metrics import ServerMetrics
from include.serving.prediction_log import PredictionLog
from include.serving.router import Router, Routes
from tests.tiny_models import fill_online_store, request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.lake.storage import Storage
    from include.serving.versions import LoadedVersion

MODEL = "flight_delays"
CANARY_ROUTES = Routes(champion="1", canary="2", canary_share_pct=99.9, shadow="3")


@dataclass(kw_only=True)
class WatchedEngine(Engine):
    """Remembers what was served whenever a version was about to be loaded; fails to load some."""

    broken: dict[str, Exception] = field(default_factory=dict)
    served_before: list[set[str]] = field(default_factory=list)

    def load(self, *, model: str, version: str, uri: str, digest: str) -> LoadedVersion:
        self.served_before.append(set(self.models[model].versions) if model in self.models else set())
        if version in self.broken:
            raise self.broken[version]
        return super().load(model=model, version=version, uri=uri, digest=digest)


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
        log = PredictionLog(folder_of=storage.predictions)
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


def score(engine: Engine, *, num_requests: int = 20) -> set[str]:
    """Return the versions that answered; all of it is counted, and nothing is left to the shadow's thread."""
    versions = set()
    for number in range(num_requests):
        body = json.dumps(infer_body(columns=request_columns(1), sticky_key=f"k{number}")).encode()
        scored = engine.score(MODEL, body)
        engine.account(scored)
        versions.add(json.loads(scored.body)["model_version"])
    return versions


def counted(engine: Engine) -> dict[tuple[str, str], tuple[int, int]]:
    return {key: (window.requests, window.errors) for key, window in engine.router.windows[MODEL].items()}


def test_a_model_is_restored_in_one_step(make: Callable[..., WatchedEngine]) -> None:
    engine = make()
    with pytest.raises(ServiceError, match="must be loaded; it is not yet"):
        score(engine)
    engine.restore()
    assert engine.served_before == [set(), set(), set()]
    assert set(engine.models[MODEL].versions) == {"1", "2", "3"}
    assert engine.unready() == []
    assert "2" in score(engine)


@pytest.mark.parametrize("problem", [OSError("disk gone"), ServiceError("store gone")])
def test_a_canary_that_is_not_loaded_is_no_canary_that_failed(
    make: Callable[..., WatchedEngine], problem: Exception
) -> None:
    engine = make(broken={"2": problem})
    engine.restore()
    assert score(engine) == {"1"}
    assert counted(engine) == {("1", "champion"): (20, 0)}
    assert "gone" in engine.models[MODEL].failures["2"]
    assert engine.is_restored
    assert engine.unready() == [f"version 2 of model {MODEL!r} is routed and not loaded"]


def test_a_champion_that_is_not_loaded_is_named_and_not_counted(make: Callable[..., WatchedEngine]) -> None:
    engine = make(broken={"1": OSError("disk gone"), "2": OSError("disk gone")})
    engine.restore()
    with pytest.raises(ServiceError, match=r"version 1 .* must be loaded to score as champion; it is not"):
        score(engine)
    assert engine.router.windows[MODEL] == {}


def test_a_shadow_that_is_not_loaded_is_not_counted(make: Callable[..., WatchedEngine]) -> None:
    engine = make(broken={"3": OSError("disk gone")})
    engine.restore()
    called: list[Any] = []
    body = json.dumps(infer_body(columns=request_columns(1))).encode()
    engine.mirror(engine.score(MODEL, body), lambda *arguments: called.append(arguments))
    engine.close()  # waits for what the shadow's thread has begun
    assert called == []


def test_a_model_whose_spec_is_gone_keeps_no_other_from_serving(make: Callable[..., WatchedEngine]) -> None:
    engine = make(model="a_model_of_old")
    package = engine.router.state("a_model_of_old").versions["1"]
    engine.router.set_version(MODEL, "1", package)
    engine.router.set_routes(MODEL, Routes(champion="1"))
    engine.restore()
    assert score(engine) == {"1"}
    assert "version 1 of model 'a_model_of_old' is routed and not loaded" in engine.unready()
