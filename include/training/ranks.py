"""The processes that train one network together: one, or as many as torchrun started, on one machine or several.

Shape suffix: B rows of a batch.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed

from include.errors import SetupError
from include.training.endings import StoppedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

TIMEOUT_S = 300
"""Seconds that a process waits for the others: longer than the first one takes to write a checkpoint."""

LEAST_ROWS = 2
"""Of a share or a piece of a batch, unless the batch has but one."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train together.

    Args:
        device: Where this process computes.
        rank: Its number; the first one writes files and speaks.
        world_size: How many there are.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @classmethod
    def alone(cls) -> Ranks:
        """Return a process that trains by itself, on the first GPU if there is one."""
        return cls(device=own_device({}))

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0

    def is_lost(self, error: RuntimeError) -> bool:
        """Return whether an error says that another process does not answer any more."""
        return self.world_size > 1 and _is_of_others(error)

    def shard(self, rows_B: torch.Tensor) -> torch.Tensor:
        """Return this process' share of a batch's rows; the shares of all processes are the batch.

        Of few rows some get none, so that nobody gets a single one where there are two: a norm over a batch takes none.
        """
        shares = torch.tensor_split(rows_B, min(self.world_size, max(1, len(rows_B) // LEAST_ROWS)))
        return shares[self.rank] if self.rank < len(shares) else rows_B[:0]

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give every process the sum of all processes' gradients.

        They go as one tensor in the parameters' order, so that floats are added in the same order in each step and
        after each start. DistributedDataParallel cuts them otherwise after its first step.
        """
        learned = [p for p in parameters if p.requires_grad]
        if self.world_size == 1 or not learned:
            return
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
        flat = torch.cat([gradient.flatten() for gradient in own])
        distributed.all_reduce(flat)
        for parameter, total in zip(learned, flat.split([p.numel() for p in learned]), strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype)

    @torch.no_grad()
    def take_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give tensors the values that they have in the first process."""
        if self.world_size == 1:
            return
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            distributed.broadcast(whole, src=0)
            tensor.copy_(whole)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, whether it is set in any process; all get the same answer at the same step."""
        if self.world_size == 1:
            return flags
        found = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return tuple(bool(flag) for flag in found.tolist())

    def total(self, *numbers: float) -> tuple[float, ...]:
        """Return each number's sum over the processes."""
        if self.world_size == 1:
            return numbers
        found = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(found)
        return tuple(found.tolist())

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return every process' tensor of the machine's own memory, in the order of their ranks."""
        if self.world_size == 1:
            return [tensor]
        whole = tensor.contiguous()
        found = [torch.empty_like(whole) for _ in range(self.world_size)]
        distributed.all_gather(found, whole)
        return found

    def from_first(self, number: int) -> int:
        """Return the number that the first process gives."""
        if self.world_size == 1:
            return number
        found = torch.tensor(number)
        distributed.broadcast(found, src=0)
        return int(found)


@contextmanager
def joined_ranks(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started, if it did: its variables name them.

    Raises:
        SetupError: More processes than GPUs on this machine.
        StoppedError: The others did not come: their pods wait for room, or were lost before they began.
    """
    world_size = int(environment.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks.alone()
        return
    device = own_device(environment)
    # Tensors of the machine's own memory go over gloo, those of a GPU over nccl.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT_S))
    except RuntimeError as error:
        if not _is_of_others(error):
            raise
        reason = str(error).splitlines()[0]
        raise StoppedError(f"the other processes must come within {TIMEOUT_S} s; got {reason}") from error
    yield Ranks(device=device, rank=distributed.get_rank(), world_size=world_size)
    distributed.destroy_process_group()  # not after an error: nccl would wait for processes that are gone


def _is_of_others(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or any(name in str(error).lower() for name in ("gloo", "nccl"))


def own_device(environment: Mapping[str, str]) -> torch.device:
    """Return where this process computes: the GPU of its number on this machine, or the processor without any.

    Raises:
        SetupError: More processes than GPUs on this machine.
    """
    local_rank = int(environment.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise SetupError(
            f"torchrun must start at most {torch.cuda.device_count()} processes on this machine, one a GPU; got "
            f"process {local_rank + 1}. Nothing was trained. Lower --nproc-per-node, or choose another profile."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
