"""What every deployment target must do, on each of them, with a real model server behind each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from include.errors import BadInputError, CorruptArtifactError, NotFoundError, ServiceError
from include.rollout.target import Artifact, GoldenResult
from include.serving.client import infer_body
from tests.kserve.places import Place, kserve_place, local_place
from tests.tiny_models import request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.rollout.target import DeploymentTarget
    from tests.running import RunningModelServer

MODEL = "flight_delays"


@pytest.fixture(params=["local", "Knative", "Standard"])
def place(
    request: pytest.FixtureRequest, model_server: RunningModelServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    if request.param == "local":
        yield local_place(model_server)
        return
    with kserve_place(model_server, mode=request.param, monkeypatch=monkeypatch) as found:
        yield found


@pytest.fixture
def target(place: Place) -> DeploymentTarget:
    return place.target


@pytest.fixture
def deploy(target: DeploymentTarget, tmp_path: Path) -> Callable[[str], str]:
    def run(version: str) -> str:
        package = tiny_package(tmp_path / version, bias=-0.1 * int(version))
        target.deploy(Artifact(model=MODEL, version=version, uri=package.uri, digest=package.digest))
        return version

    return run


def test_a_model_that_was_never_deployed_has_no_routes(target: DeploymentTarget) -> None:
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.shadow, state.loaded) == (None, None, None, frozenset())


def test_a_deployed_version_takes_no_traffic_and_scores_its_golden_rows(
    place: Place, target: DeploymentTarget, deploy: Callable[[str], str]
) -> None:
    deploy("1")
    deploy("1")
    assert target.check(model=MODEL, version="1").passed
    state = target.read(model=MODEL)
    assert (state.champion, state.loaded) == (None, frozenset({"1"}))
    target.promote(model=MODEL, version="1")
    deploy("2")
    assert target.check(model=MODEL, version="2").passed
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.loaded) == ("1", None, frozenset({"1", "2"}))
    assert _answering(place, 20) == {"1"}


def test_a_whole_rollout_each_call_twice(place: Place, target: DeploymentTarget, deploy: Callable[[str], str]) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    deploy("2")
    for share_pct in (10.0, 10.0, 50.0):
        target.set_share(model=MODEL, version="2", share_pct=share_pct)
        state = target.read(model=MODEL)
        assert (state.champion, state.canary, state.canary_share_pct, state.shadow) == ("1", "2", share_pct, None)
    assert _answering(place, 40) == {"1", "2"}
    for _ in range(2):
        target.promote(model=MODEL, version="2")
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.canary_share_pct, state.shadow) == ("2", None, 0.0, None)
    assert _answering(place, 20) == {"2"}
    for _ in range(2):
        target.remove(model=MODEL, version="1")
    assert target.read(model=MODEL).loaded == {"2"}


def test_the_former_champion_takes_over_again(
    place: Place, target: DeploymentTarget, deploy: Callable[[str], str]
) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    target.promote(model=MODEL, version=deploy("2"))
    assert "1" in target.read(model=MODEL).loaded
    for _ in range(2):
        target.promote(model=MODEL, version="1")
    state = target.read(model=MODEL)
    assert (state.champion, state.canary) == ("1", None)
    assert _answering(place, 20) == {"1"}
    target.set_share(model=MODEL, version=deploy("3"), share_pct=20)
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.canary_share_pct) == ("1", "3", 20.0)


def test_an_older_version_is_deployed_again_and_gets_a_share(
    target: DeploymentTarget, deploy: Callable[[str], str]
) -> None:
    for version in ("1", "2"):
        target.promote(model=MODEL, version=deploy(version))
    deploy("1")
    assert target.check(model=MODEL, version="1").passed
    target.set_share(model=MODEL, version="1", share_pct=10)
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.canary_share_pct) == ("2", "1", 10.0)
    target.withdraw(model=MODEL, version="1")
    assert target.read(model=MODEL).champion == "2"


def test_withdrawing_leaves_the_champion(place: Place, target: DeploymentTarget, deploy: Callable[[str], str]) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    target.withdraw(model=MODEL, version=deploy("2"))
    if target.capabilities.has_shadow:
        target.set_shadow(model=MODEL, version="2")
        target.withdraw(model=MODEL, version="2")
        assert target.read(model=MODEL).shadow is None
    target.set_share(model=MODEL, version="2", share_pct=10)
    for _ in range(2):
        target.withdraw(model=MODEL, version="2")
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.canary_share_pct, state.shadow) == ("1", None, 0.0, None)
    assert _answering(place, 20) == {"1"}


def test_a_shadow_is_one_or_is_refused(target: DeploymentTarget, deploy: Callable[[str], str]) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    deploy("2")
    target.set_shadow(model=MODEL, version=None)
    if not target.capabilities.has_shadow:
        with pytest.raises(BadInputError, match="KServe has none"):
            target.set_shadow(model=MODEL, version="2")
        assert target.read(model=MODEL).shadow is None
        return
    for _ in range(2):
        target.set_shadow(model=MODEL, version="2")
    assert target.read(model=MODEL).shadow == "2"
    target.set_share(model=MODEL, version=deploy("3"), share_pct=10)
    assert target.read(model=MODEL).shadow == "2"
    target.withdraw(model=MODEL, version="3")
    assert target.read(model=MODEL).shadow == "2"


def test_equal_calls_keep_the_counters_and_others_reset_them(
    place: Place, target: DeploymentTarget, deploy: Callable[[str], str]
) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    place.catch_up()
    place.server.client.infer(model=MODEL, columns=request_columns(2))
    place.catch_up()
    before = target.read(model=MODEL)
    counted = before.of("1", "champion")
    assert (counted.requests, counted.errors, sum(counted.latency_counts)) == (1, 0, 1)
    target.promote(model=MODEL, version="1")
    assert target.read(model=MODEL).of("1", "champion") == counted
    target.set_share(model=MODEL, version=deploy("2"), share_pct=10)
    place.catch_up()
    after = target.read(model=MODEL)
    assert after.of("1", "champion").requests == 0
    assert after.revision > before.revision


def test_champion_and_canary_are_counted_apart(
    place: Place, target: DeploymentTarget, deploy: Callable[[str], str]
) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    target.set_share(model=MODEL, version=deploy("2"), share_pct=40)
    place.catch_up()
    answered = [
        place.server.client.infer(model=MODEL, columns=request_columns(1), sticky_key=f"key-{number}")["model_version"]
        for number in range(40)
    ]
    place.catch_up()
    state = target.read(model=MODEL)
    assert state.of("1", "champion").requests == answered.count("1") > 0
    assert state.of("2", "canary").requests == answered.count("2") > 0


def test_what_callers_ask_of_a_named_version_is_no_evidence(
    place: Place, target: DeploymentTarget, deploy: Callable[[str], str]
) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    target.set_share(model=MODEL, version=deploy("2"), share_pct=40)
    place.catch_up()
    body = json.dumps(infer_body(columns=request_columns(1))).encode()
    for version in ("1", "2") * 5:
        with urlopen(f"{place.server.url}/v2/models/{MODEL}/versions/{version}/infer", body) as response:
            assert json.load(response)["model_version"] == version
    place.catch_up()
    state = target.read(model=MODEL)
    counted = [state.of("1", "champion"), state.of("2", "canary")]
    assert [(found.requests, sum(found.latency_counts)) for found in counted] == [(0, 0), (0, 0)]


def test_a_change_of_routes_that_somebody_else_changed_is_refused(
    target: DeploymentTarget, deploy: Callable[[str], str]
) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    deploy("2")
    known = target.read(model=MODEL).revision
    target.set_share(model=MODEL, version="2", share_pct=10, if_revision=known)
    with pytest.raises(ServiceError, match=rf"must still be revision {known}"):
        target.set_share(model=MODEL, version="2", share_pct=50, if_revision=known)
    with pytest.raises(ServiceError, match=rf"must still be revision {known}"):
        target.promote(model=MODEL, version="2", if_revision=known)
    if target.capabilities.has_shadow:
        deploy("3")
        with pytest.raises(ServiceError, match=rf"must still be revision {known}"):
            target.set_shadow(model=MODEL, version="3", if_revision=known)
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.canary_share_pct) == ("1", "2", 10.0)
    target.promote(model=MODEL, version="2", if_revision=state.revision)
    assert target.read(model=MODEL).champion == "2"


def test_a_damaged_package_is_not_deployed(target: DeploymentTarget, tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "1")
    with pytest.raises(CorruptArtifactError):
        target.deploy(Artifact(model=MODEL, version="1", uri=package.uri, digest="0" * 64))
    assert target.read(model=MODEL).loaded == frozenset()


def test_what_takes_traffic_is_not_removed_nor_its_package_changed(
    target: DeploymentTarget, deploy: Callable[[str], str], tmp_path: Path
) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    with pytest.raises(BadInputError):
        target.remove(model=MODEL, version="1")
    other = tiny_package(tmp_path / "other", bias=-0.5)
    with pytest.raises(BadInputError, match="must keep its package"):
        target.deploy(Artifact(model=MODEL, version="1", uri=other.uri, digest=other.digest))
    assert target.read(model=MODEL).champion == "1"


def test_a_version_that_is_not_deployed_gets_nothing(target: DeploymentTarget, deploy: Callable[[str], str]) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    with pytest.raises((NotFoundError, BadInputError)):
        target.set_share(model=MODEL, version="9", share_pct=10)
    with pytest.raises((NotFoundError, BadInputError)):
        target.promote(model=MODEL, version="9")
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.loaded) == ("1", None, frozenset({"1"}))


def test_an_impossible_share_is_refused(target: DeploymentTarget, deploy: Callable[[str], str]) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    deploy("2")
    for share_pct in (-1.0, 100.1, 0.01):
        with pytest.raises(BadInputError):
            target.set_share(model=MODEL, version="2", share_pct=share_pct)
    assert target.read(model=MODEL).canary is None


def test_a_place_that_does_not_answer_is_said_so(place: Place, target: DeploymentTarget) -> None:
    place.silence()
    with pytest.raises(ServiceError, match=r"retry|tried again"):
        target.read(model=MODEL)


@pytest.mark.parametrize(
    ("num_rows", "difference", "passed"), [(20, 0.001, True), (20, 0.00101, False), (0, 0.0, False)]
)
def test_golden_rows_pass_within_their_tolerance(num_rows: int, difference: float, *, passed: bool) -> None:
    assert GoldenResult(num_rows=num_rows, max_abs_diff=difference, tolerance=0.001).passed is passed


def _answering(place: Place, num_requests: int) -> set[str]:
    return {
        place.server.client.infer(model=MODEL, columns=request_columns(1), sticky_key=f"k{number}")["model_version"]
        for number in range(num_requests)
    }
