"""Rows on their way to the network: the same ones from a resident table and from a streamed one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import torch

from include.training.loader import Batches
from tests.gpu import needs_gpus

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
TABLE = [torch.arange(1000), torch.arange(2000, dtype=torch.float32).reshape(1000, 2)]
ORDER = torch.randperm(1000, generator=torch.Generator().manual_seed(3)).split(64)


@pytest.fixture
def loader_threads() -> Callable[[], list[str]]:
    """Return a function that names the loaders' threads that this test has begun and that live."""
    others = set(threading.enumerate())

    def living() -> list[str]:
        return [each.name for each in threading.enumerate() if each not in others and each.name.startswith("loader")]

    return living


@pytest.mark.parametrize("is_resident", [True, False])
def test_batches_come_in_the_order_that_is_asked_for(
    is_resident: bool, loader_threads: Callable[[], list[str]]
) -> None:
    batches = Batches(TABLE, device=CPU, is_resident=is_resident)
    found = list(batches.feed(iter(ORDER)))
    assert len(found) == len(ORDER) == 16
    for (numbers_B, pairs_BD), rows_B in zip(found, ORDER, strict=True):
        assert torch.equal(numbers_B, rows_B)
        assert torch.equal(pairs_BD[:, 1], 2.0 * rows_B + 1)
    assert batches.waited_s > 0
    assert loader_threads() == []


def test_a_stream_that_is_closed_early_leaves_no_thread(loader_threads: Callable[[], list[str]]) -> None:
    stream = Batches(TABLE, device=CPU, is_resident=False).feed(iter(ORDER))
    next(stream)
    assert len(loader_threads()) == 1
    del stream
    assert loader_threads() == []


def test_a_stream_runs_only_a_little_ahead() -> None:
    asked: list[int] = []

    def order() -> object:
        for number, rows_B in enumerate(ORDER):
            asked.append(number)
            yield rows_B

    stream = Batches(TABLE, device=CPU, is_resident=False).feed(order())  # type: ignore[arg-type]
    next(stream)
    assert asked == [0, 1, 2]


def test_an_error_while_gathering_reaches_the_training() -> None:
    with pytest.raises(IndexError, match="out of range"):
        list(Batches(TABLE, device=CPU, is_resident=False).feed([torch.tensor([1000])]))


def test_pieces_are_all_rows_in_their_order() -> None:
    found = list(Batches(TABLE, device=CPU).pieces(300))
    assert [len(piece[0]) for piece in found] == [300, 300, 300, 100]
    assert torch.equal(torch.cat([piece[0] for piece in found]), TABLE[0])


def test_a_table_in_the_machines_own_memory_is_resident() -> None:
    assert Batches(TABLE, device=CPU).is_resident
    assert Batches(TABLE, device=CPU).home == CPU


@needs_gpus()
@pytest.mark.parametrize("is_resident", [True, False])
def test_batches_reach_a_gpu(is_resident: bool) -> None:
    device = torch.device("cuda", 0)
    batches = Batches(TABLE, device=device, is_resident=is_resident)
    order = [rows_B.to(batches.home) for rows_B in ORDER]
    for (numbers_B, pairs_BD), rows_B in zip(batches.feed(order), ORDER, strict=True):
        assert numbers_B.device == pairs_BD.device == device
        assert torch.equal(numbers_B.cpu(), rows_B)
        assert torch.equal(pairs_BD[:, 1].cpu(), 2.0 * rows_B + 1)
