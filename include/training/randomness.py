"""The random numbers that a training draws: torch's, and those of NumPy and Python that a network of one's own may use.

A state is a tensor, so that processes can exchange it and a checkpoint hold it without pickled code.
"""

from __future__ import annotations

import random

import numpy as np
import torch

_NUM_KEYS = 624
"""Words of a Mersenne Twister; Python keeps its position after them, NumPy apart."""
_GENERATOR = "MT19937"


def seed_all(seed: int) -> None:
    """Begin all of them anew."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the generator that others may draw from, not our own


def host_state() -> torch.Tensor:
    """Return the states of Python's and NumPy's generators, one after the other; float64 holds their words exactly.

    >>> before = host_state()
    >>> drawn = random.random(), np.random.normal()
    >>> set_host_state(before)
    >>> drawn == (random.random(), np.random.normal())
    True
    """
    version, words, gauss = random.getstate()
    held = np.random.get_state(legacy=False)  # noqa: NPY002 - as above
    keys, position = held["state"]["key"], held["state"]["pos"]
    python = [float(version), *words, float(gauss is not None), gauss or 0.0]
    return torch.tensor([*python, *keys, position, held["has_gauss"], held["gauss"]], dtype=torch.float64)


def set_host_state(state: torch.Tensor) -> None:
    """Let them go on where `host_state` was taken."""
    version, *rest = state.tolist()
    words, (has_gauss, gauss, *rest) = rest[: _NUM_KEYS + 1], rest[_NUM_KEYS + 1 :]
    random.setstate((int(version), tuple(map(int, words)), gauss if has_gauss else None))
    *keys, position, is_cached, cached = rest
    held = (_GENERATOR, np.array(keys, dtype=np.uint32), int(position), int(is_cached), cached)
    np.random.set_state(held)  # noqa: NPY002 - as above
