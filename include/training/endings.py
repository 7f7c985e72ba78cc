"""Which exit code an error of the trainer is: the machine's fault, the storage's, or that of what it was given."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import ServiceError, SetupError, TradewindError
from include.training.exit_codes import ExitCode
from include.training.preflight import PreflightError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE})
_NO_MEMORY = ("annot allocate memory", "can't allocate memory", "out of memory", "can't start new thread")
_BROKEN_GPU = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "or a hardware error",
    "is/are busy or unavailable",
    "no CUDA-capable device",
    "CUDA unknown error",
    "CUDA error: unknown error",
    "system not yet initialized",
)
"""What CUDA says of a device that is broken, or that its driver has lost. Source: NVIDIA's table of cudaError_t. Not
among them: launch failures and illegal addresses, which a kernel of the model causes as well."""

TERMINATION_LOG = Path("/dev/termination-log")
"""What a container leaves to say about its end; Kubernetes shows it in the container's status, 4096 bytes at most."""
_MAX_CHARS = 600


class StoppedError(Exception):
    """The trainer was asked to end, or others whom it needs are not there; the message says what is kept."""


def tell_kubernetes(code: int, why: str, *, path: Path = TERMINATION_LOG) -> None:
    """Leave exit code and reason in the container's status, if this is one: torchrun makes each exit code a 1.

    Of the processes in a container the first with an error of its own is heard: its end interrupts the others.
    """
    if not path.exists():
        return
    with contextlib.suppress(OSError), path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        told = _code_in(file.read())
        if told is not None and (told != ExitCode.INTERRUPTED or code == ExitCode.INTERRUPTED):
            return
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"exit_code": code, "message": why[:_MAX_CHARS]}).encode())


def _code_in(content: bytes) -> int | None:
    """Return the exit code that a process of this container has left, None if none has."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return int(json.loads(content)["exit_code"])
    return None


def exit_code_of(error: BaseException, *, refused: ExitCode) -> int:
    """Return the exit code that an error asks for; 1 for one that nobody foresaw, as in any Python program.

    Args:
        error: What ended the training.
        refused: The code of a `TradewindError` that blames what was given.
    """
    if isinstance(error, PreflightError):  # a GPU whose memory others hold is no fault of the job's
        return ExitCode.PREFLIGHT_FAILED
    for cause in _causes(error):
        if _is_out_of_memory(cause):
            return ExitCode.OUT_OF_MEMORY
        if (isinstance(cause, OSError) and cause.errno in _DISK) or _is_broken_gpu(cause):
            return ExitCode.PREFLIGHT_FAILED
    if isinstance(error, ServiceError):
        return ExitCode.STORAGE_UNAVAILABLE
    if isinstance(error, SetupError):
        return ExitCode.BAD_SETUP
    return refused if isinstance(error, TradewindError) else 1


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was refused; torch says so by name on a GPU, and only in words on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    in_words = isinstance(error, RuntimeError | ImportError) and any(words in str(error) for words in _NO_MEMORY)
    return in_words or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def _is_broken_gpu(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _BROKEN_GPU)
