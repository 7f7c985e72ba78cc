"""Each line of a pod's log once, whatever the server gives again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import ServiceError
from sensors.triggers.pod_log import CURSOR, Place, PodLog

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PATH = "/api/v1/namespaces/ml/pods/a"


class _Api:
    """Answers with the lines from whole seconds on, as a kubelet does, and keeps what is noted on the pod."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.annotations: dict[str, str] = {}
        self.is_silent = False
        self.ends = True
        self.num_streams = 0

    async def follow(self, path: str, **query: str) -> AsyncGenerator[str]:
        if self.is_silent:
            raise ServiceError(f"{path} is silent")
        self.num_streams += 1
        since, place = query.get("sinceTime", "")[:19], 0
        while place < len(self.lines) or not self.ends:
            if place < len(self.lines):
                place += 1
                if self.lines[place - 1][:19] >= since:
                    yield self.lines[place - 1]
            else:
                await asyncio.sleep(0)

    async def patch(self, path: str, change: Any) -> None:
        if self.is_silent:
            raise ServiceError(f"{path} is silent")
        self.annotations |= change["metadata"]["annotations"]


class _Reader:
    """Looks at a log again and again, as the trigger does."""

    def __init__(self, api: _Api) -> None:
        since = Place.noted({"metadata": {"annotations": api.annotations}})
        self.log = PodLog(api, path=PATH, container="base", since=since)  # type: ignore[arg-type]

    async def read(self, *, is_over: bool = False) -> list[str]:
        self.log.follow(is_over=is_over)
        for _ in range(50):
            await asyncio.sleep(0)
        return await self.log.new_lines()


def read(reader: _Reader) -> list[str]:
    return asyncio.run(reader.read())


def test_a_line_is_read_once() -> None:
    api = _Api("2026-01-01T00:00:00.5Z one", "2026-01-01T00:00:00.5Z two")
    reader = _Reader(api)
    assert read(reader) == ["one", "two"]
    assert read(reader) == []
    api.lines += ["2026-01-01T00:00:00.5Z three", "2026-01-01T00:00:00.500000001Z four", "2026-01-01T00:00:02Z  five"]
    assert read(reader) == ["three", "four", " five"]
    assert read(reader) == []


def test_one_stream_gives_what_is_printed_while_it_is_open() -> None:
    api = _Api("2026-01-01T00:00:00.5Z one")
    api.ends = False

    async def follow() -> None:
        reader = _Reader(api)
        assert await reader.read() == ["one"]
        api.lines += ["2026-01-01T00:00:00.5Z two"]  # of the same moment, and not given again
        assert await reader.read() == ["two"]
        assert api.annotations == {CURSOR: "2026-01-01T00:00:00.5Z 2"}
        api.lines += ["2026-01-01T00:00:01Z last words"]
        api.ends = True
        assert await reader.read(is_over=True) == ["last words"]
        assert (api.num_streams, reader.log.is_complete) == (1, False)
        assert await reader.read(is_over=True) == []
        assert (api.num_streams, reader.log.is_complete) == (2, True)
        assert await reader.read(is_over=True) == []
        assert api.num_streams == 2

    asyncio.run(follow())


def test_a_reader_that_stops_leaves_no_stream_open() -> None:
    api = _Api()
    api.ends = False

    async def follow() -> None:
        reader = _Reader(api)
        await reader.read()
        reader.log.stop()
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(follow())


def test_another_triggerer_goes_on_where_it_was_noted() -> None:
    api = _Api("2026-01-01T00:00:00.1Z one", "2026-01-01T00:00:00.1Z two")
    assert read(_Reader(api)) == ["one", "two"]
    assert api.annotations == {CURSOR: "2026-01-01T00:00:00.1Z 2"}
    api.lines.append("2026-01-01T00:00:00.1Z three")
    assert read(_Reader(api)) == ["three"]


def test_fractions_of_other_lengths_sort_by_time() -> None:
    api = _Api("2026-01-01T00:00:00.123Z one", "2026-01-01T00:00:00.2Z two")
    reader = _Reader(api)
    assert read(reader) == ["one", "two"]
    api.lines.insert(1, "2026-01-01T00:00:00.15Z late")  # came after a later one was read: it is left out
    assert read(reader) == []


def test_a_silent_server_costs_nothing() -> None:
    api = _Api("2026-01-01T00:00:00Z one")
    reader = _Reader(api)
    api.is_silent = True
    assert asyncio.run(reader.read(is_over=True)) == []
    assert not reader.log.is_complete
    api.is_silent = False
    assert asyncio.run(reader.read(is_over=True)) == ["one"]
    assert reader.log.is_complete


@pytest.mark.parametrize("noted", ["", "x", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z x"])
def test_a_note_that_says_nothing_begins_at_its_moment(noted: str) -> None:
    api = _Api("no timestamp", "2026-01-01T00:00:00Z one", "2026-01-01T00:00:01Z two")
    api.annotations = {CURSOR: noted}
    assert read(_Reader(api))[-1] == "two"
