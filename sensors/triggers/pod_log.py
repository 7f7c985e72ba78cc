"""What a pod prints, each line once: also when a stream breaks off, a triggerer dies, or two lines have one moment."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from include.errors import TradewindError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from operators.hooks.kubernetes_objects import AsyncKubernetesObjects

CURSOR = "tradewind/logged"
"""Annotation of the pod: up to where its log is in the task's log; whoever goes on reading begins there."""
_READ_S = 15.0
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$")


class PodLog:
    """Reads the log of one pod from where it was read before.

    Args:
        api: The API; None for who reads by other means, with `query` and `unread`.
        path: Of the pod.
        container: Its container.
    """

    def __init__(self, api: AsyncKubernetesObjects | None = None, *, path: str, container: str) -> None:
        self._api = api
        self._path = path
        self._container = container
        self._after, self._same = "", 0
        self._began = False
        self.is_behind = False
        """Whether the last reading failed."""

    async def new_lines(self, pod: Mapping[str, Any]) -> list[str]:
        """Return the lines that nobody has read; none if the log cannot be read now."""
        query = self.query(pod)
        if self._api is None:
            return []
        self.is_behind = True
        try:
            async with asyncio.timeout(_READ_S):
                text = await self._api.log(self._path, **query)
        except (TradewindError, TimeoutError):
            return []
        self.is_behind = text is None
        return self.unread(text or "")

    async def remember(self) -> None:
        """Note on the pod how far its log was read, for whoever goes on."""
        if self._after and self._api is not None:
            try:
                cursor = {CURSOR: f"{self._after} {self._same}"}
                await self._api.patch(self._path, {"metadata": {"annotations": cursor}})
            except TradewindError:
                return  # a line that comes twice is no reason to end a training

    def query(self, pod: Mapping[str, Any]) -> dict[str, str]:
        """Return what to ask the server for: what nobody has read."""
        if not self._began:
            self._begin(pod)
        query = {"container": self._container, "timestamps": "true"}
        return query | ({"sinceTime": self._after} if self._after else {})

    def _begin(self, pod: Mapping[str, Any]) -> None:
        self._began = True
        noted = ((pod.get("metadata") or {}).get("annotations") or {}).get(CURSOR, "")
        stamp, _, same = noted.partition(" ")
        self._after = stamp if _moment(stamp) else ""
        self._same = int(same) if same.isdigit() else 0

    def unread(self, text: str) -> list[str]:
        """Return the lines after the cursor, and move it; the server gives whole seconds."""
        start, num_read, at_start = _moment(self._after), self._same, 0
        found = []
        for line in text.splitlines():
            stamp, _, said = line.partition(" ")
            moment = _moment(stamp)
            if not moment or moment < start:
                continue
            if moment == start:
                at_start += 1
                if at_start <= num_read:
                    continue
            self._same = self._same + 1 if moment == _moment(self._after) else 1
            self._after = stamp
            found.append(said)
        return found


def _moment(stamp: str) -> str:
    """Return a timestamp in a form that sorts; empty if it is none."""
    found = _STAMP.match(stamp)
    return f"{found[1]}.{(found[2] or '').ljust(9, '0')}" if found else ""
