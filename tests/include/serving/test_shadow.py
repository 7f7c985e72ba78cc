from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from include.serving.router import Routes
from include.serving.shadow import GATHER_S, Mirror

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class FakeSpec:
    name: str = "m"


@dataclass(frozen=True)
class FakeServed:
    spec: FakeSpec = FakeSpec()
    routes: Routes = field(default_factory=lambda: Routes(champion="1", shadow="2"))
    versions: dict[str, None] = field(default_factory=lambda: {"2": None})


@dataclass(frozen=True)
class FakeScored:
    served: FakeServed = FakeServed()


def test_a_mirror_is_closed_by_any_thread_and_touches_the_loop_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled_by: list[int] = []
    cancel = asyncio.TimerHandle.cancel

    def watched(handle: asyncio.TimerHandle) -> None:
        cancelled_by.append(threading.get_ident())
        cancel(handle)

    monkeypatch.setattr(asyncio.TimerHandle, "cancel", watched)
    done: list[Any] = []
    dropped: list[int] = []

    async def close_elsewhere() -> None:
        mirror = Mirror(done=done.append, dropped=dropped.append, is_busy=lambda: False)
        mirror.copy([FakeScored()])  # type: ignore[list-item]
        await asyncio.get_running_loop().run_in_executor(None, mirror.close)
        await asyncio.sleep(2 * GATHER_S)  # the copies would be begun by now

    asyncio.run(close_elsewhere())
    assert set(cancelled_by) <= {threading.get_ident()}
    assert (done, dropped) == ([], [])
