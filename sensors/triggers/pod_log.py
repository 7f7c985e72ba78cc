"""What a pod prints, each line once: also when a stream breaks off, a triggerer dies, or two lines have one moment."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import ServiceError, TradewindError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from operators.hooks.kubernetes_objects import AsyncKubernetesObjects

CURSOR = "tradewind/logged"
"""Annotation of the pod: up to where its log is in the task's log; whoever goes on reading begins there."""
_MAX_LINES = 10_000
"""Lines that are held until the next look; a pod that prints more than that is read more slowly."""
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Up to where a log was read.

    Attributes:
        after: Timestamp of the last line, as the server wrote it; empty: nothing was read.
        same: How many lines of that very moment were read.
    """

    after: str = ""
    same: int = 0

    @classmethod
    def noted(cls, pod: Mapping[str, Any]) -> Place:
        """Return what is noted on a pod."""
        text = ((pod.get("metadata") or {}).get("annotations") or {}).get(CURSOR, "")
        stamp, _, same = text.partition(" ")
        return cls(after=stamp if _moment(stamp) else "", same=int(same) if same.isdigit() else 0)

    @property
    def note(self) -> dict[str, Any]:
        """What notes it on a pod, as a patch."""
        return {"metadata": {"annotations": {CURSOR: f"{self.after} {self.same}"}}}

    def query(self, container: str) -> dict[str, str]:
        """Return what to ask the server for: what nobody has read; it takes whole seconds."""
        query = {"container": container, "timestamps": "true"}
        return query | ({"sinceTime": self.after} if self.after else {})


class Unread:
    """Tells the lines of one answer that nobody has read from those that the server gives again.

    Attributes:
        place: Up to where it was read.
    """

    def __init__(self, since: Place) -> None:
        self.place = since
        self._start, self._num_read, self._at_start = _moment(since.after), since.same, 0

    def take(self, line: str) -> str | None:
        """Return what a line says, and move the place; None if it was read before."""
        stamp, _, said = line.partition(" ")
        moment = _moment(stamp)
        if not moment or moment < self._start:
            return None
        if moment == self._start:
            self._at_start += 1
            if self._at_start <= self._num_read:
                return None
        same = self.place.same + 1 if moment == _moment(self.place.after) else 1
        self.place = Place(after=stamp, same=same)
        return said


class PodLog:
    """Follows the log of one pod: a stream that is open as long as the pod runs, so that its last words are not lost.

    Args:
        api: The API.
        path: Of the pod.
        container: Its container.
        since: Up to where it was read before.
    """

    def __init__(self, api: AsyncKubernetesObjects, *, path: str, container: str, since: Place) -> None:
        self._api = api
        self._path = path
        self._container = container
        self._read = self._told = since
        self._lines: asyncio.Queue[tuple[str, Place]] = asyncio.Queue(maxsize=_MAX_LINES)
        self._reading: asyncio.Task[None] | None = None
        self.is_complete = False
        """Whether all was read that its pod has printed and will print."""

    def follow(self, *, is_over: bool) -> None:
        """Begin to read where that is not under way; `is_over`: the pod prints nothing more."""
        if self._reading is not None and self._reading.done():
            with suppress(ServiceError):
                self._reading.result()
            self._reading = None
        if self._reading is None and not self.is_complete:
            self._reading = asyncio.create_task(self._read_on(is_over=is_over))

    async def _read_on(self, *, is_over: bool) -> None:
        unread = Unread(self._read)
        async with aclosing(self._api.follow(self._path, **self._read.query(self._container))) as lines:
            async for line in lines:
                said = unread.take(line)
                if said is not None:
                    self._read = unread.place
                    await self._lines.put((said, unread.place))
        self.is_complete = is_over

    async def new_lines(self) -> list[str]:
        """Return what was read since the last time, and note on the pod how far, for whoever goes on."""
        found = []
        while not self._lines.empty():
            said, self._told = self._lines.get_nowait()
            found.append(said)
        if found:
            with suppress(TradewindError):  # a line that comes twice is no reason to end a training
                await self._api.patch(self._path, self._told.note)
        return found

    def stop(self) -> None:
        """Read no more, until `follow` is called again."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


def _moment(stamp: str) -> str:
    """Return a timestamp in a form that sorts; empty if it is none."""
    found = _STAMP.match(stamp)
    return f"{found[1]}.{(found[2] or '').ljust(9, '0')}" if found else ""
