"""Takes requests together that wait for the same model, so that one turn of a worker serves many of them.

There is no artificial wait unless the model's spec asks for one: a request that comes while a worker is free is scored
at once, and those that come meanwhile make the next batch. Used by one thread only, the event loop's.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from include.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from include.serving.scoring import Asked, Result, Scored

_LOG = logging.getLogger(__name__)

MAX_REQUESTS = 64
"""Most requests of a batch; more would keep the first of them waiting, and win little."""


BUSY_S = 0.1
"""For so long after a request had to wait for a worker, requests count as waiting."""


@dataclass(kw_only=True)
class _Queue:
    """The requests of one model: those that wait, and how many batches of it are scored."""

    waiting: deque[tuple[Asked, asyncio.Future[Scored]]] = field(default_factory=deque)
    num_running: int = 0
    alarm: asyncio.Handle | None = None


@dataclass(kw_only=True)
class MicroBatcher:
    """Queues requests by model. How many may wait is the caller's to limit, before they come here.

    Args:
        run: Scores requests to one model in a worker; an answer, or why there is none, for each of them, in order.
        done: Is told in the event loop what was scored, before the callers are.
        delay_ms_of: Model -> most milliseconds that its first request waits for others.
        pool: The workers.
        max_running: Most batches of one model at a time; fewer than the workers, so that no model takes them all.
    """

    run: Callable[[str, Sequence[Asked]], Sequence[Result]]
    done: Callable[[Sequence[Scored]], None]
    delay_ms_of: Callable[[str], float]
    pool: Executor
    max_running: int
    _queues: dict[str, _Queue] = field(default_factory=dict)
    _waited_at_s: float = -math.inf

    def is_busy(self) -> bool:
        """Return whether requests found no free worker lately."""
        return asyncio.get_running_loop().time() - self._waited_at_s < BUSY_S

    async def score(self, model: str, asked: Asked) -> Scored:
        """Return what was made of one request; a caller that goes away keeps nobody else from an answer.

        Raises:
            TradewindError: As `run` says of this request.
        """
        loop = asyncio.get_running_loop()
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = _Queue()
        future: asyncio.Future[Scored] = loop.create_future()
        queue.waiting.append((asked, future))
        if queue.num_running < self.max_running and (queue.alarm is None or len(queue.waiting) >= MAX_REQUESTS):
            self._call(loop, model, queue)
        return await future

    def _call(self, loop: asyncio.AbstractEventLoop, model: str, queue: _Queue) -> None:
        """Have a batch begun: after all that the loop reads in this round, or after the delay."""
        if queue.alarm is not None:
            queue.alarm.cancel()
        delay_ms = 0.0 if len(queue.waiting) >= MAX_REQUESTS else self.delay_ms_of(model)
        if delay_ms:
            queue.alarm = loop.call_later(delay_ms / 1e3, self._begin, loop, model, queue)
        else:
            queue.alarm = loop.call_soon(self._begin, loop, model, queue)

    def _begin(self, loop: asyncio.AbstractEventLoop, model: str, queue: _Queue) -> None:
        queue.alarm = None
        batch = [queue.waiting.popleft() for _ in range(min(MAX_REQUESTS, len(queue.waiting)))]
        if batch:
            queue.num_running += 1
            try:
                self.pool.submit(self._work, loop, model, queue, batch)
            except RuntimeError as error:  # the pool is closed: the server ends
                self._finish(loop, model, queue, batch, [_gone(error)] * len(batch))
        elif not queue.num_running:
            self._queues.pop(model, None)

    def _work(
        self,
        loop: asyncio.AbstractEventLoop,
        model: str,
        queue: _Queue,
        batch: list[tuple[Asked, asyncio.Future[Scored]]],
    ) -> None:
        results: Sequence[Result]
        try:
            results = self.run(model, [asked for asked, _ in batch])
        except Exception as error:  # noqa: BLE001 - each caller is told, whatever it is
            results = [error] * len(batch)
        loop.call_soon_threadsafe(self._finish, loop, model, queue, batch, results)

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        model: str,
        queue: _Queue,
        batch: list[tuple[Asked, asyncio.Future[Scored]]],
        results: Sequence[Result],
    ) -> None:
        queue.num_running -= 1
        if queue.waiting:
            self._waited_at_s = loop.time()
        if queue.waiting and queue.alarm is None:
            self._begin(loop, model, queue)  # they have waited for a whole batch already
        elif not queue.waiting and not queue.num_running and queue.alarm is None:
            self._queues.pop(model, None)
        try:
            self.done([result for result in results if not isinstance(result, Exception)])
        except Exception as error:  # noqa: BLE001 - each caller is told, whatever it is
            _LOG.exception("what was scored for model %r could not be counted", model)
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # its caller went away
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def _gone(error: RuntimeError) -> ServiceError:
    gone = ServiceError("the model server is ending; nothing was scored. Send it to another server, or again soon.")
    gone.__cause__ = error
    return gone
