"""Each line of a pod's log once, whatever the server gives again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from include.errors import ServiceError
from sensors.triggers.pod_log import CURSOR, PodLog

PATH = "/api/v1/namespaces/ml/pods/a"


class _Api:
    """Answers with the lines from whole seconds on, as a kubelet does, and keeps what is noted on the pod."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.annotations: dict[str, str] = {}
        self.is_silent = False

    async def log(self, path: str, **query: str) -> str | None:
        if self.is_silent:
            raise ServiceError(f"{path} is silent")
        since = query.get("sinceTime", "")[:19]
        return "".join(f"{line}\n" for line in self.lines if line[:19] >= since)

    async def patch(self, path: str, change: Any) -> None:
        if self.is_silent:
            raise ServiceError(f"{path} is silent")
        self.annotations |= change["metadata"]["annotations"]


def reader(api: _Api) -> PodLog:
    return PodLog(api, path=PATH, container="base")  # type: ignore[arg-type]


def read(log: PodLog, api: _Api) -> list[str]:
    """Read and note, as the trigger does."""

    async def once() -> list[str]:
        lines = await log.new_lines({"metadata": {"annotations": api.annotations}})
        await log.remember()
        return lines

    return asyncio.run(once())


def test_a_line_is_read_once() -> None:
    api = _Api("2026-01-01T00:00:00.5Z one", "2026-01-01T00:00:00.5Z two")
    log = reader(api)
    assert read(log, api) == ["one", "two"]
    assert read(log, api) == []
    api.lines += ["2026-01-01T00:00:00.5Z three", "2026-01-01T00:00:00.500000001Z four", "2026-01-01T00:00:02Z  five"]
    assert read(log, api) == ["three", "four", " five"]
    assert read(log, api) == []


def test_another_triggerer_goes_on_where_it_was_noted() -> None:
    api = _Api("2026-01-01T00:00:00.1Z one", "2026-01-01T00:00:00.1Z two")
    assert read(reader(api), api) == ["one", "two"]
    assert api.annotations == {CURSOR: "2026-01-01T00:00:00.1Z 2"}
    api.lines.append("2026-01-01T00:00:00.1Z three")
    assert read(reader(api), api) == ["three"]


def test_fractions_of_other_lengths_sort_by_time() -> None:
    api = _Api("2026-01-01T00:00:00.123Z one", "2026-01-01T00:00:00.2Z two")
    log = reader(api)
    assert read(log, api) == ["one", "two"]
    api.lines.insert(1, "2026-01-01T00:00:00.15Z late")  # came after a later one was read: it is left out
    assert read(log, api) == []


def test_a_silent_server_costs_nothing() -> None:
    api = _Api("2026-01-01T00:00:00Z one")
    log = reader(api)
    api.is_silent = True
    assert read(log, api) == []
    assert log.is_behind
    api.is_silent = False
    assert read(log, api) == ["one"]
    assert not log.is_behind


@pytest.mark.parametrize("noted", ["", "x", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z x"])
def test_a_note_that_says_nothing_begins_at_its_moment(noted: str) -> None:
    api = _Api("no timestamp", "2026-01-01T00:00:00Z one", "2026-01-01T00:00:01Z two")
    api.annotations = {CURSOR: noted}
    assert read(reader(api), api)[-1] == "two"
