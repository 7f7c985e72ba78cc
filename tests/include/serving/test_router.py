from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from include.errors import BadInputError, ServiceError, SetupError
from include.serving.router import Router, Routes, bucket

KEYS = [f"key-{n}" for n in range(20_000)]


def share_of_canary(routes: Routes) -> float:
    return sum(routes.choose(key, model="m")[1] == "canary" for key in KEYS) / len(KEYS)


@pytest.mark.parametrize("share_pct", [0.1, 1.0, 10.0, 50.0, 99.9])
def test_the_canary_gets_its_share(share_pct: float) -> None:
    routes = Routes(champion="1", canary="2", canary_share_pct=share_pct)
    routes.require_possible()
    assert share_of_canary(routes) == pytest.approx(share_pct / 100, abs=0.012)


def test_a_key_stays_with_the_canary_as_its_share_rises() -> None:
    small = Routes(champion="1", canary="2", canary_share_pct=10)
    large = Routes(champion="1", canary="2", canary_share_pct=50)
    in_small = {key for key in KEYS if small.choose(key, model="m")[1] == "canary"}
    in_large = {key for key in KEYS if large.choose(key, model="m")[1] == "canary"}
    assert in_small < in_large


def test_each_canary_gets_other_keys() -> None:
    first = Routes(champion="1", canary="2", canary_share_pct=10)
    second = Routes(champion="1", canary="3", canary_share_pct=10)
    both = sum(first.choose(k, model="m")[1] == second.choose(k, model="m")[1] == "canary" for k in KEYS)
    assert both / len(KEYS) == pytest.approx(0.01, abs=0.005)


def test_without_a_canary_the_champion_answers() -> None:
    assert Routes(champion="1").choose("k", model="m") == ("1", "champion")
    assert Routes().choose("k", model="m") == (None, "champion")


def test_buckets_never_change() -> None:
    assert [bucket(text) for text in ("", "a", "flight_delays:2:2013-05-00001")] == [876, 343, 29]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"champion": "1", "canary": "2", "canary_share_pct": 0.05}, "steps of 0.1; got 0.05"),
        ({"champion": "1", "canary": "2", "canary_share_pct": 100.0}, "below 100"),
        ({"champion": "1", "canary": "2", "canary_share_pct": -10.0}, "from 0"),
        ({"champion": "1", "canary": "2", "canary_share_pct": 0.0}, "together; got canary 2, share 0.0 %"),
        ({"champion": "1", "canary_share_pct": 10.0}, "together; got canary None"),
        ({"canary": "2", "canary_share_pct": 10.0}, "need a champion"),
        ({"shadow": "2"}, "need a champion"),
        ({"champion": "1", "shadow": "1"}, "different versions"),
        ({"champion": "1", "canary": "1", "canary_share_pct": 10.0}, "different versions"),
    ],
)
def test_impossible_routes_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Routes(**fields).require_possible()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"champion": "1"},
        {"champion": "1", "canary": "2", "canary_share_pct": 99.9},
        {"champion": "1", "canary": "2", "canary_share_pct": 0.1, "shadow": "3"},
    ],
)
def test_possible_routes_are_not(fields: dict[str, Any]) -> None:
    Routes(**fields).require_possible()


def test_routes_and_versions_outlive_the_process(tmp_path: Path) -> None:
    router = Router(path=tmp_path / "made" / "router.json", now_s=lambda: 1000.0)
    router.set_version("m", "1", {"uri": "/p1", "digest": "d1"})
    router.set_routes("m", Routes(champion="1"))
    router.set_routes("m", Routes(champion="1", shadow="2"))
    again = Router(path=router.path)
    again.restore()
    assert again.states == router.states
    assert (again.state("m").revision, again.state("m").changed_at_s) == (2, 1000.0)


def test_the_age_is_that_of_the_routes(tmp_path: Path) -> None:
    times = {"now_s": 1000.0}
    router = Router(path=tmp_path / "router.json", now_s=lambda: times["now_s"])
    router.set_version("m", "1", {"uri": "/p1", "digest": "d1"})
    times["now_s"] = 1050.0
    assert router.age_s("m") == 0.0  # never routed
    router.set_routes("m", Routes(champion="1"))
    times["now_s"] = 1160.0
    router.set_routes("m", Routes(champion="1"))
    router.set_version("m", "2", {"uri": "/p", "digest": "d"})
    assert (router.age_s("m"), router.state("m").revision) == (110.0, 1)
    router.set_routes("m", Routes(champion="1", shadow="2"))
    assert (router.age_s("m"), router.state("m").revision) == (0.0, 2)
    times["now_s"] = 900.0
    assert router.age_s("m") == 0.0  # a clock that was set back


@pytest.mark.parametrize("unloaded", ["1", "2"])
def test_what_labels_said_of_a_version_is_forgotten_with_it(tmp_path: Path, unloaded: str) -> None:
    router = Router(path=tmp_path / "router.json")
    said = {"version": "2", "champion": "1", "num": 1, "total": 0.5, "total_squares": 0.25}
    for version in ("1", "2", "3"):
        router.set_version("m", version, {"uri": f"/p{version}", "digest": "d"})
    router.set_labels("m", "2013-07", said)
    router.set_version("m", "3", None)
    assert router.state("m").labels == {"2013-07": said}
    router.set_version("m", unloaded, None)
    assert router.state("m").labels == {}


def test_a_state_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    router = Router(path=tmp_path / "router.json")
    router.set_routes("m", Routes(champion="1"))
    router.path = tmp_path / "router.json" / "no-folder" / "router.json"
    with pytest.raises(ServiceError, match="Routes and versions stay as they were"):
        router.set_routes("m", Routes(champion="2"))
    assert router.state("m").routes == Routes(champion="1")


def test_a_state_and_its_name_are_on_the_disk_before_a_change_takes_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def watched(file: int) -> None:
        synced.append(Path(f"/proc/self/fd/{file}").readlink())
        fsync(file)

    monkeypatch.setattr(os, "fsync", watched)
    Router(path=tmp_path / "state" / "router.json").set_routes("m", Routes(champion="1"))
    assert synced == [tmp_path / "state" / "router.tmp", tmp_path / "state"]


def test_a_folder_that_cannot_be_synced_changes_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)
    router = Router(path=tmp_path / "router.json")
    router.set_routes("m", Routes(champion="1"))
    assert router.state("m").routes == Routes(champion="1")
    assert caplog.messages == [
        f"router state {tmp_path}/router.json may be the one before after a power cut: [Errno 22] Invalid argument"
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"models": 3}', '{"models": {"m": {"routes": {"x": 1}}}}'])
def test_a_damaged_state_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "router.json"
    path.write_text(text)
    with pytest.raises(SetupError, match=r"must be readable JSON; got .* No port was opened"):
        Router(path=path).restore()
