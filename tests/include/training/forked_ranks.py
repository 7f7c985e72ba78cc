"""Processes that train together, as torchrun would start them; forked, since each would import torch anew."""

from __future__ import annotations

import multiprocessing
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUM_RANKS = 2


def become(rank: int, port: int, *, of: int = NUM_RANKS) -> None:
    """Have the variables that torchrun gives to a process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(of)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def start(target: Callable[..., None], folder: Path, *, num_ranks: int = NUM_RANKS) -> list[int | None]:
    """Run a function in so many processes and return their exit codes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=target, args=(rank, port, folder)) for rank in range(num_ranks)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    exit_codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    return exit_codes
