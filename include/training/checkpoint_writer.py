"""Writes checkpoints while training goes on: the state is copied on the step, all else happens in one other thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import torch

from include.training.checkpoints import STORAGE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from include.training.checkpoints import Checkpoints


class CheckpointWriter:
    """Writes one checkpoint at a time; closed, it has written what it was given.

    Args:
        checkpoints: Where they go.
        newest: Step of the newest one that is there; None without any.
        say: Gets a line when one could not be written, which costs that one and not the training; and once, when those
            that are too old could not be deleted.
    """

    def __init__(self, checkpoints: Checkpoints, *, newest: int | None, say: Callable[[str], None]) -> None:
        self.newest = newest
        self._checkpoints, self._say = checkpoints, say
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: tuple[int, Future[None]] | None = None
        self._is_said = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_about: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self._settle()

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written: the next one waits, the training does not."""
        return self._writing is not None and not self._writing[1].done()

    def save_soon(self, step: int, state: Mapping[str, Any]) -> None:
        """Copy a state and write the copy in the other thread.

        Raises:
            Exception: What was wrong with the one before, unless the storage was.
        """
        self._settle()
        if step == self.newest:
            return
        self._writing = step, self._thread.submit(self._checkpoints.save, step, _copied(state), say=self._say_once)

    def save_now(self, step: int, state: Mapping[str, Any]) -> str:
        """Write a state and return, in words, which checkpoint is the newest now."""
        self.save_soon(step, state)
        self._settle()
        if self.newest == step:
            return "a checkpoint is saved"
        return f"its checkpoint could not be saved, {self.name_newest()}"

    def name_newest(self) -> str:
        """Return, in words, which checkpoint is the newest when all are written."""
        self._settle()
        return "there is none" if self.newest is None else f"the newest is of step {self.newest}"

    def _say_once(self, line: str) -> None:
        """Say what would be the same after each checkpoint."""
        if not self._is_said:
            self._is_said = True
            self._say(line)

    def _settle(self) -> None:
        """Wait for the checkpoint that is being written, and say so if it could not be."""
        if self._writing is None:
            return
        (step, written), self._writing = self._writing, None
        try:
            written.result()
        except STORAGE_ERRORS as error:
            self._say(f"warning: the checkpoint of step {step} could not be written, training goes on: {error}")
        else:
            self.newest = step


def _copied(value: Any) -> Any:
    """Return tensors as copies in the machine's own memory, in the same lists and dicts."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_copied(one) for one in value]
    return value
