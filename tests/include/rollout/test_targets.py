"""What every deployment target must do, on each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from include.errors import BadInputError, CorruptArtifactError, ServiceError
from include.rollout.local import LocalTarget
from include.rollout.target import Artifact, DeploymentTarget, GoldenResult
from tests.tiny_models import request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.running import RunningModelServer

MODEL = "flight_delays"


@pytest.fixture(params=["local"])
def target(request: pytest.FixtureRequest, model_server: RunningModelServer) -> DeploymentTarget:
    targets: dict[str, Callable[[], DeploymentTarget]] = {"local": lambda: LocalTarget(client=model_server.client)}
    return targets[request.param]()


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
    target: DeploymentTarget, deploy: Callable[[str], str]
) -> None:
    deploy("1")
    deploy("1")
    assert target.check(model=MODEL, version="1").passed
    state = target.read(model=MODEL)
    assert (state.champion, state.loaded) == (None, frozenset({"1"}))


def test_a_whole_rollout_each_call_twice(target: DeploymentTarget, deploy: Callable[[str], str]) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    deploy("2")
    for _ in range(2):
        target.set_shadow(model=MODEL, version="2")
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.shadow) == ("1", None, "2")
    for share_pct in (10.0, 10.0, 50.0):
        target.set_share(model=MODEL, version="2", share_pct=share_pct)
        state = target.read(model=MODEL)
        assert (state.champion, state.canary, state.canary_share_pct, state.shadow) == ("1", "2", share_pct, None)
    for _ in range(2):
        target.promote(model=MODEL, version="2")
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.canary_share_pct, state.shadow) == ("2", None, 0.0, None)
    for _ in range(2):
        target.remove(model=MODEL, version="1")
    assert target.read(model=MODEL).loaded == {"2"}


@pytest.mark.parametrize("stage", ["shadow", "canary", "neither"])
def test_withdrawing_leaves_the_champion(target: DeploymentTarget, deploy: Callable[[str], str], stage: str) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    deploy("2")
    if stage == "shadow":
        target.set_shadow(model=MODEL, version="2")
    if stage == "canary":
        target.set_share(model=MODEL, version="2", share_pct=10)
    for _ in range(2):
        target.withdraw(model=MODEL, version="2")
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.canary_share_pct, state.shadow) == ("1", None, 0.0, None)


def test_another_shadow_stays_when_a_canary_starts(target: DeploymentTarget, deploy: Callable[[str], str]) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    target.set_shadow(model=MODEL, version=deploy("3"))
    target.set_share(model=MODEL, version=deploy("2"), share_pct=10)
    assert target.read(model=MODEL).shadow == "3"
    target.withdraw(model=MODEL, version="2")
    assert target.read(model=MODEL).shadow == "3"


def test_equal_calls_keep_the_counters_and_others_reset_them(
    target: DeploymentTarget, deploy: Callable[[str], str], model_server: RunningModelServer
) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    model_server.client.infer(model=MODEL, columns=request_columns(2))
    before = target.read(model=MODEL)
    assert before.of("1", "champion").requests == 1
    target.promote(model=MODEL, version="1")
    assert target.read(model=MODEL).of("1", "champion") == before.of("1", "champion")
    target.set_shadow(model=MODEL, version=deploy("2"))
    after = target.read(model=MODEL)
    assert after.of("1", "champion").requests == 0
    assert after.revision > before.revision


def test_a_damaged_package_is_not_deployed(target: DeploymentTarget, tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "1")
    with pytest.raises(CorruptArtifactError):
        target.deploy(Artifact(model=MODEL, version="1", uri=package.uri, digest="0" * 64))
    assert target.read(model=MODEL).loaded == frozenset()


def test_what_takes_traffic_is_not_removed(target: DeploymentTarget, deploy: Callable[[str], str]) -> None:
    target.promote(model=MODEL, version=deploy("1"))
    with pytest.raises(BadInputError):
        target.remove(model=MODEL, version="1")


def test_a_place_that_does_not_answer_is_said_so(model_server: RunningModelServer, target: DeploymentTarget) -> None:
    model_server.kill()
    with pytest.raises(ServiceError, match="Start it, then retry"):
        target.read(model=MODEL)


@pytest.mark.parametrize(
    ("num_rows", "difference", "passed"), [(20, 0.001, True), (20, 0.00101, False), (0, 0.0, False)]
)
def test_golden_rows_pass_within_their_tolerance(num_rows: int, difference: float, *, passed: bool) -> None:
    assert GoldenResult(num_rows=num_rows, max_abs_diff=difference, tolerance=0.001).passed is passed
