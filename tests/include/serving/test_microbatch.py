"""Requests that wait together: who waits for whom, and what one may do to another."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest

from include.errors import BadInputError, ServiceError
from include.serving.microbatch import MAX_REQUESTS, MicroBatcher
from include.serving.scoring import Asked, Result, Scored

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

WAIT_S = 20.0


class Worker:
    """Answers each request by its body, when it may; notes what was taken together."""

    def __init__(self, *, num_threads: int = 1, max_running: int = 1, delay_ms: float = 0.0) -> None:
        self.batches: list[tuple[str, list[bytes]]] = []
        self.counted: list[Any] = []
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()
        self.error: Exception | None = None
        self.pool = ThreadPoolExecutor(num_threads)
        self.batcher = MicroBatcher(
            run=self.run,
            done=self.counted.extend,
            delay_ms_of=lambda _model: delay_ms,
            pool=self.pool,
            max_running=max_running,
        )

    def run(self, model: str, batch: Sequence[Asked]) -> list[Result]:
        self.batches.append((model, [asked.body for asked in batch]))
        self.begun.release()
        assert self.may_end.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        return [BadInputError("bad") if asked.body == b"bad" else cast("Scored", asked.body) for asked in batch]

    def send(self, body: bytes, *, model: str = "m") -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(self.batcher.score(model, Asked(body)))

    async def began(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=WAIT_S)


def play(scene: Callable[[Worker], Coroutine[Any, Any, None]], **how: Any) -> Worker:
    worker = Worker(**how)
    try:
        asyncio.run(asyncio.wait_for(scene(worker), WAIT_S))
    finally:
        worker.may_end.set()
        worker.pool.shutdown()
    return worker


def test_those_that_come_while_a_worker_is_busy_are_taken_together_in_order() -> None:
    async def scene(worker: Worker) -> None:
        first = worker.send(b"0")
        await worker.began()
        later = [worker.send(b"%d" % number) for number in range(1, 6)]
        await asyncio.sleep(0)
        worker.may_end.set()
        assert await asyncio.gather(first, *later) == [b"0", b"1", b"2", b"3", b"4", b"5"]

    worker = play(scene)
    assert worker.batches == [("m", [b"0"]), ("m", [b"1", b"2", b"3", b"4", b"5"])]
    assert worker.counted == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_a_batch_has_its_most_requests_and_the_rest_comes_next() -> None:
    async def scene(worker: Worker) -> None:
        worker.may_end.set()
        await asyncio.gather(*(worker.send(b"x") for _ in range(2 * MAX_REQUESTS + 1)))

    assert [len(batch) for _, batch in play(scene).batches] == [MAX_REQUESTS, MAX_REQUESTS, 1]


def test_one_that_is_refused_spoils_no_other() -> None:
    async def scene(worker: Worker) -> None:
        worker.may_end.set()
        found = await asyncio.gather(*(worker.send(body) for body in (b"a", b"bad", b"c")), return_exceptions=True)
        assert found[0] == b"a"
        assert isinstance(found[1], BadInputError)
        assert found[2] == b"c"

    worker = play(scene)
    assert len(worker.batches) == 1
    assert worker.counted == [b"a", b"c"]


def test_a_worker_that_fails_is_told_to_all_and_the_next_are_served() -> None:
    async def scene(worker: Worker) -> None:
        worker.may_end.set()
        worker.error = ServiceError("broken")
        found = await asyncio.gather(worker.send(b"a"), worker.send(b"b"), return_exceptions=True)
        assert [type(error) for error in found] == [ServiceError, ServiceError]
        worker.error = None
        assert await worker.send(b"c") == b"c"

    play(scene)


def test_a_caller_that_goes_away_takes_no_answer_from_others_and_is_counted() -> None:
    async def scene(worker: Worker) -> None:
        tasks = [worker.send(body) for body in (b"a", b"b")]
        await worker.began()
        tasks[0].cancel()
        waiting = worker.send(b"c")
        await asyncio.sleep(0)
        waiting.cancel()
        last = worker.send(b"d")
        worker.may_end.set()
        assert await tasks[1] == b"b"
        assert await last == b"d"

    assert play(scene).counted[:2] == [b"a", b"b"]


def test_a_model_leaves_a_worker_for_the_others() -> None:
    async def scene(worker: Worker) -> None:
        slow = [worker.send(b"slow", model="slow")]
        await worker.began()
        slow.append(worker.send(b"slow", model="slow"))
        other = worker.send(b"quick", model="other")
        await worker.began()
        assert [model for model, _ in worker.batches] == ["slow", "other"]
        worker.may_end.set()
        await asyncio.gather(*slow, other)

    play(scene, num_threads=2, max_running=1)


def test_a_delay_gathers_requests_of_an_idle_server_and_a_full_batch_does_not_wait() -> None:
    async def scene(worker: Worker) -> None:
        worker.may_end.set()
        first = worker.send(b"a")
        await asyncio.sleep(0.01)
        await asyncio.gather(first, worker.send(b"b"))

    assert [batch for _, batch in play(scene, delay_ms=300).batches] == [[b"a", b"b"]]

    async def full(worker: Worker) -> None:
        worker.may_end.set()
        await asyncio.gather(*(worker.send(b"x") for _ in range(MAX_REQUESTS)))

    play(full, delay_ms=1e9)  # `play` gives up long before


def test_a_server_that_ends_refuses_what_no_worker_takes() -> None:
    async def scene(worker: Worker) -> None:
        worker.pool.shutdown()
        with pytest.raises(ServiceError, match="is ending; nothing was scored"):
            await worker.send(b"a")

    play(scene)
