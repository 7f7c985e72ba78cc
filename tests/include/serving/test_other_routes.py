"""Routes and counters that are not of one another: one of the two was removed, or put back from a backup."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.running import MODEL, RunningModelServer
from tests.tiny_models import request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def send(server: RunningModelServer, num_requests: int) -> None:
    for _ in range(num_requests):
        server.client.infer(model=MODEL, columns=request_columns(1))


def counted(server: RunningModelServer) -> tuple[int, dict[str, int]]:
    state = server.client.get_routes(model=MODEL)
    return state["revision"], {found["role"]: found["requests"] for found in state["counters"]}


@pytest.fixture
def state(champion: RunningModelServer, load: Callable[..., str]) -> Path:
    """Return the folder of a server whose champion 1 has answered seven requests since its routes changed often."""
    load("2")
    for _ in range(3):
        champion.client.set_routes(model=MODEL, champion="1", shadow="2")
        champion.client.set_routes(model=MODEL, champion="1")
    send(champion, 7)
    return champion.folder / "state"


def test_routes_that_were_removed_begin_without_evidence(
    champion: RunningModelServer, state: Path, load: Callable[..., str]
) -> None:
    last, before = counted(champion)
    assert before == {"champion": 7}
    num_logged = len(champion.log)
    champion.kill()
    (state / "router.json").unlink()
    champion.start()
    champion.client.set_routes(model=MODEL, champion=load("1"))
    for number in range(last):  # on and beyond the number that the old routes had
        revision, found = counted(champion)
        assert (revision > last, found) == (True, {})
        send(champion, 2)
        assert counted(champion)[1]["champion"] == 2
        other = {"shadow": load("2")} if number % 2 == 0 else {}
        champion.client.set_routes(model=MODEL, champion="1", **other)
    assert "routes of model 'flight_delays' are of revision 0, and revision" in champion.log[num_logged:]


def test_older_routes_that_were_put_back_begin_without_evidence(champion: RunningModelServer, state: Path) -> None:
    older = (state / "router.json").read_bytes()
    for shadow in ("2", None, "2"):
        champion.client.set_routes(model=MODEL, champion="1", shadow=shadow)
        send(champion, 3)
    last, before = counted(champion)
    assert before["champion"] == 3
    champion.kill()
    (state / "router.json").write_bytes(older)
    champion.start()
    assert counted(champion) == (last + 1, {})
    assert champion.client.get_routes(model=MODEL)["routes"]["shadow"] is None
    assert champion.client.get_routes(model=MODEL)["age_s"] < 30
    send(champion, 2)
    champion.kill()
    champion.start()
    assert counted(champion) == (last + 1, {"champion": 2})


def test_older_counters_that_were_put_back_are_no_evidence(
    champion: RunningModelServer, state: Path, tmp_path: Path
) -> None:
    champion.kill()
    shutil.copytree(state / "journal", tmp_path / "journal")
    champion.start()
    champion.client.set_routes(model=MODEL, champion="1", shadow="2")
    last, _ = counted(champion)
    champion.kill()
    shutil.rmtree(state / "journal")
    shutil.copytree(tmp_path / "journal", state / "journal")
    champion.start()
    assert counted(champion) == (last, {})
    send(champion, 2)
    assert counted(champion)[1]["champion"] == 2


def test_a_champion_that_is_appointed_after_its_routes_were_removed_begins_without_evidence(
    champion: RunningModelServer, tmp_path: Path
) -> None:
    package = tiny_package(tmp_path / "one")
    given = {"model": MODEL, "version": "1", "uri": package.uri, "digest": package.digest}
    appointed = RunningModelServer(
        folder=tmp_path / "appointed", storage=champion.storage, arguments=("--champion", json.dumps(given))
    )
    appointed.start()
    try:
        send(appointed, 4)
        appointed.kill()
        (appointed.folder / "state" / "router.json").unlink()
        appointed.start()
        assert counted(appointed)[1] == {}
    finally:
        appointed.stop()
