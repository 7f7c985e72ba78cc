"""What is kept of predictions when there is no room for all: of each version the same number of rows, all as likely."""

from __future__ import annotations

import logging
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from include.serving.counters import Work

if TYPE_CHECKING:
    from collections.abc import Iterator


_LOG = logging.getLogger(__name__)


class Reservoir:
    """A uniform sample of a stream, without replacement, whatever its length.

    The sample is that of Algorithm R (J. S. Vitter, "Random sampling with a reservoir", ACM TOMS 11, 1985): after n
    items each is in it with the probability min(1, size / n). How many items to pass over before the next one is drawn
    at once (K.-H. Li, "Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n)))", ACM TOMS 20, 1994,
    Algorithm L), so that an item that is passed over costs nothing.

    Args:
        size: Most items that it keeps.
        seed: What is drawn depends on it alone.

    >>> sample = Reservoir(size=2, seed="a")
    >>> sum(len(list(sample.places(3))) for _ in range(100)) < 40
    True
    >>> sample.num_seen, sample.num_kept, sample.weight
    (300, 2, 150.0)
    """

    def __init__(self, *, size: int, seed: str) -> None:
        self.size = size
        self.num_seen = 0
        self._random = random.Random(seed)  # noqa: S311 - a sample, no secret
        self._largest = 1.0
        self._next: int | None = None

    @property
    def num_kept(self) -> int:
        """Items in the sample."""
        return min(self.num_seen, self.size)

    @property
    def weight(self) -> float:
        """How many items each that was kept stands for."""
        return self.num_seen / self.num_kept if self.num_kept else 1.0

    def places(self, num_items: int) -> Iterator[tuple[int, int]]:
        """Yield (item, place) of those of the next items that are kept, each in place of what was there."""
        first, self.num_seen = self.num_seen, self.num_seen + num_items
        for item in range(first, min(self.num_seen, self.size)):
            yield item - first, item
        if self.num_seen <= self.size:
            return
        if self._next is None:
            self._next = self._after(self.size - 1)
        while self._next < self.num_seen:
            yield self._next - first, self._random.randrange(self.size)
            self._next = self._after(self._next)

    def _after(self, item: int) -> int:
        """Return the next item after one that is kept."""
        self._largest *= math.exp(math.log(1.0 - self._random.random()) / self.size)
        return item + math.floor(math.log(1.0 - self._random.random()) / math.log1p(-self._largest)) + 1


@dataclass(kw_only=True)
class WorkSample:
    """Rows of work, sampled for each model and version alone. One thread at a time may use it.

    Args:
        rows: Most rows of one version.
        seed: What is drawn depends on it alone.
    """

    rows: int
    seed: int = 0
    num_lost: int = 0
    _kept: dict[tuple[str, str], tuple[Reservoir, dict[int, bytes]]] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Rows that are kept."""
        return sum(len(kept) for _, kept in self._kept.values())

    def add(self, work: Work) -> int:
        """Take work's rows or not; return how many rows were lost by it, its own or others in their place."""
        key = work.model, work.version
        if key not in self._kept:
            self._kept[key] = Reservoir(size=self.rows, seed=f"{self.seed} {work.model} {work.version}"), {}
        reservoir, kept = self._kept[key]
        num_before = len(kept)
        for row, place in reservoir.places(work.num_rows):
            try:
                kept[place] = _ENCODER.encode(_row(work, row))  # a tenth of the memory of its objects
            except (TypeError, ValueError):
                _LOG.exception("work of %r v%s could not be written down", work.model, work.version)
        num_lost = work.num_rows - (len(kept) - num_before)
        self.num_lost += num_lost
        return num_lost

    def kept(self) -> Iterator[Work]:
        """Yield what was kept, each row with its weight."""
        for reservoir, kept in self._kept.values():
            for content in kept.values():
                yield msgspec.structs.replace(_DECODER.decode(content), sampling_weight=reservoir.weight)


def _row(work: Work, row: int) -> Work:
    return msgspec.structs.replace(
        work,
        example_ids=None if work.example_ids is None else [work.example_ids[row]],
        predictions=None if work.predictions is None else [work.predictions[row]],
        columns={name: [values[row]] for name, values in work.columns.items()},
    )


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Work)
