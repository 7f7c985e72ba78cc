"""How the training command says in one number how it ended; who is at fault decides whether a retry may help.

From outside come 137 (SIGKILL: the kernel for want of memory, or somebody) and 143 (SIGTERM before it could answer).
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `python -m include.training`; the numbers follow sysexits(3) where it has a word for it."""

    DONE = 0
    BAD_JOB = 64
    """The job file, its parameters or the model's code cannot be used; the same job fails again."""
    BAD_DATA = 65
    """The snapshot is missing, damaged or cannot train this model; the same job fails again."""
    PREFLIGHT_FAILED = 66
    """This machine cannot train: driver, GPU, memory, a full disk. Another one, or this one mended, can."""
    STORAGE_UNAVAILABLE = 69
    """The object store or the disk does not answer; a retry asks again."""
    OUT_OF_MEMORY = 71
    """An allocation was refused, on the machine or on the GPU."""
    INTERRUPTED = 75
    """It was asked to stop and saved a checkpoint; a retry continues there."""
    BAD_SETUP = 78
    """Something that a person set up refuses it: a bucket's policy, missing credentials; the same job fails again."""
