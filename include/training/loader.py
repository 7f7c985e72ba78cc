"""Brings rows to where the network is, and counts how long the network waited for them.

Shape suffixes: B rows of a batch, R rows of a table.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_DEPTH = 3
"""Batches on their way: one that the network is about to take, one being copied, one being gathered."""

_RESIDENT_FRAC = 0.5
"""Share of a GPU's free memory that a table may take, so that network, gradients and activations find room."""

_Batch = list[torch.Tensor]


class Batches:
    """A table's columns as tensors, from which batches are taken by their rows' numbers.

    A table that fits lies on the network's device: a batch is one lookup there. One that does not fit stays in the
    machine's own memory; another thread gathers the next batches into pinned memory and copies them to the GPU beside
    its work.

    Args:
        tensors: Columns in the machine's own memory, R rows each.
        device: Where the network is.
        is_resident: Whether the table lies there; None: if it fits.
    """

    def __init__(
        self, tensors: Sequence[torch.Tensor], *, device: torch.device, is_resident: bool | None = None
    ) -> None:
        self.is_resident = _fits(tensors, device) if is_resident is None else is_resident
        self.waited_s = 0.0
        self._device = device
        self._tensors = [x.to(device) for x in tensors] if self.is_resident else list(tensors)
        self._beside = torch.cuda.Stream(device) if device.type == "cuda" and not self.is_resident else None

    @property
    def home(self) -> torch.device:
        """Where row numbers belong: beside the table."""
        return self._tensors[0].device

    def feed(self, order: Iterable[torch.Tensor]) -> Iterator[_Batch]:
        """Yield the batches of row numbers, in their order; close it when not all are taken."""
        return self._look_up(order) if self.is_resident else self._stream(order)

    def pieces(self, num_rows: int) -> Iterator[_Batch]:
        """Yield all rows in their order, so many at once."""
        for columns in zip(*(x.split(num_rows) for x in self._tensors), strict=True):
            yield [column.to(self._device) for column in columns]

    def _look_up(self, order: Iterable[torch.Tensor]) -> Iterator[_Batch]:
        for rows_B in order:
            since = time.perf_counter()
            batch = [x.index_select(0, rows_B) for x in self._tensors]
            self.waited_s += time.perf_counter() - since
            yield batch

    def _stream(self, order: Iterable[torch.Tensor]) -> Iterator[_Batch]:
        coming: deque[Future[tuple[_Batch, torch.cuda.Event | None]]] = deque()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as thread:
            for rows_B in order:
                coming.append(thread.submit(self._gather, rows_B))
                if len(coming) == _DEPTH:
                    yield self._take(coming.popleft())
            while coming:
                yield self._take(coming.popleft())

    def _gather(self, rows_B: torch.Tensor) -> tuple[_Batch, torch.cuda.Event | None]:
        gathered = [x.index_select(0, rows_B) for x in self._tensors]
        if self._beside is None:
            return gathered, None
        with torch.cuda.stream(self._beside):
            copied = [x.pin_memory().to(self._device, non_blocking=True) for x in gathered]
            return copied, self._beside.record_event()

    def _take(self, coming: Future[tuple[_Batch, torch.cuda.Event | None]]) -> _Batch:
        since = time.perf_counter()
        batch, is_there = coming.result()
        self.waited_s += time.perf_counter() - since
        if is_there is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(is_there)
            for tensor in batch:
                tensor.record_stream(here)  # made on the other stream: its memory is not free before this one is done
        return batch


def _fits(tensors: Sequence[torch.Tensor], device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return sum(x.nbytes for x in tensors) <= _RESIDENT_FRAC * free_bytes
