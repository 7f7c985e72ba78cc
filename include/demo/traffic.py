"""A month's flights as HTTP requests, as the callers of the model would send them while the month goes by."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from include.demo.flights import month_files
from include.errors import ServiceError
from include.features.examples import examples_of
from include.lake.csv_reader import read_csv
from include.serving.client import infer_body

if TYPE_CHECKING:
    import aiohttp
    import pyarrow as pa

    from include.spec import ModelSpec

ROWS_PER_REQUEST = 8
_REPEAT_AFTER_S = 0.2
CONCURRENCY = 4
IDLE_REQUESTS_PER_S = 10.0
"""Pace while the month before is being decided on: the callers must last until there is something to compare."""
HELD_REQUESTS_PER_S = 0.5
"""Pace once the rest is what a comparison needs: on a slow machine a training takes longer than the callers last."""
COMPARED_REQUESTS_PER_S = 150.0
"""Pace while a challenger is compared with the champion."""


@dataclass(kw_only=True)
class Traffic:
    """Replays one partition's requests from a thread of its own, at a pace that its owner may change.

    Args:
        spec: The model that is asked.
        base_url: The model server.
        partition: A month of 2013.
        max_flights: Ask for only so many of its flights; None for all.
        outage_s: For how long a caller asks again, with the same request id, when the server is away.
    """

    spec: ModelSpec
    base_url: str
    partition: str
    max_flights: int | None = None
    outage_s: float = 0.0
    num_answers: Counter[str] = field(default_factory=Counter)
    """Answers by model version."""
    num_errors: Counter[int] = field(default_factory=Counter)
    """Answers that were no prediction, by HTTP status."""
    num_left: int = 0
    """Requests that were not sent yet."""
    num_repeats: int = 0
    """Requests sent again because the server was away."""
    latencies_ms: list[float] = field(default_factory=list)
    span: tuple[float, float] = (0.0, 0.0)
    """When the first request was sent and the last was answered, Unix seconds."""
    requests_per_s: float = IDLE_REQUESTS_PER_S
    _next_at: float = 0.0
    _thread: threading.Thread | None = None
    _failure: BaseException | None = None

    def start(self) -> None:
        """Begin sending."""
        self._thread = threading.Thread(target=self._run, name=f"traffic-{self.partition}", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until every request has been answered.

        Raises:
            ServiceError: A request was refused, or the server did not answer.
        """
        if self._thread is None:
            return
        self._thread.join()
        if self._failure:
            raise ServiceError(
                f"traffic of {self.partition} must be answered; got {self._failure!r}"
            ) from self._failure
        if self.num_errors:
            raise ServiceError(f"each request of {self.partition} must get a prediction; got {dict(self.num_errors)}.")

    def _run(self) -> None:
        began = time.time()
        try:
            asyncio.run(self._send_all())
        except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise to: `wait` raises it again
            self._failure = error
        self.span = (began, time.time())

    async def _send_all(self) -> None:
        import aiohttp

        pending = asyncio.Queue[dict[str, Any]]()
        for item in month_requests(self.spec, partition=self.partition, max_flights=self.max_flights):
            pending.put_nowait(item)
        async with aiohttp.ClientSession(self.base_url) as session:
            await asyncio.gather(*(self._send(session, pending) for _ in range(CONCURRENCY)))

    async def _send(self, session: aiohttp.ClientSession, pending: asyncio.Queue[dict[str, Any]]) -> None:
        while not pending.empty():
            body = pending.get_nowait()
            self.num_left = pending.qsize()
            self._next_at = max(self._next_at, time.monotonic()) + 1 / self.requests_per_s
            await asyncio.sleep(self._next_at - time.monotonic())
            status, answer = await self._ask(session, body)
            if status == HTTPStatus.OK:
                self.num_answers[answer["model_version"]] += 1
            else:
                self.num_errors[status] += 1

    async def _ask(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and answer of a request, asked again while the server is away or still loads its models."""
        import aiohttp

        until_s = time.monotonic() + self.outage_s
        while True:
            before = time.perf_counter()
            try:
                async with session.post(f"/v2/models/{self.spec.name}/infer", json=body) as response:
                    answer = await response.json()
            except aiohttp.ClientError:
                if time.monotonic() >= until_s:
                    raise
            else:
                if response.status != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() >= until_s:
                    self.latencies_ms.append((time.perf_counter() - before) * 1e3)
                    return response.status, answer
            self.num_repeats += 1
            await asyncio.sleep(_REPEAT_AFTER_S)


def month_requests(spec: ModelSpec, *, partition: str, max_flights: int | None = None) -> list[dict[str, Any]]:
    """Return a month's requests in the order of time, each of up to `ROWS_PER_REQUEST` examples.

    They hold what a caller knows: the request features and the entities. The label is not among them.
    """
    examples = examples_of(spec=spec, tables=_month_tables(spec, partition=partition, max_flights=max_flights))
    names = ("example_id", *dict.fromkeys((*(f.name for f in spec.features.request), *spec.features.entities)))
    columns = examples.select(names).to_pydict()
    requests = []
    for number, first in enumerate(range(0, examples.num_rows, ROWS_PER_REQUEST)):
        rows = {name: values[first : first + ROWS_PER_REQUEST] for name, values in columns.items()}
        key = f"{partition}-{number:05d}"
        requests.append(infer_body(columns=rows, request_id=key, sticky_key=key))
    return requests


def _month_tables(spec: ModelSpec, *, partition: str, max_flights: int | None) -> dict[str, pa.Table]:
    """Return a month's typed rows before it has landed: callers know their flights earlier than the lake does."""
    import pyarrow as pa

    files = month_files(partition, max_flights=max_flights)
    tables = {}
    for name, table in spec.source.tables.items():
        rows = read_csv(files[table.file], file=table.file, table=table)
        tables[name] = rows.append_column("partition", pa.array([partition] * rows.num_rows, pa.string()))
    return tables
