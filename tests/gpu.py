"""What needs a GPU: its marker, why it is skipped, and the file of its figures. `make bench-gpu` runs all of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


def _missing(number: int) -> pytest.MarkDecorator:
    return pytest.mark.skipif(torch.cuda.device_count() < number, reason=f"needs CUDA devices: {number}")


DEVICES = (
    pytest.param(torch.device("cpu"), id="cpu"),
    pytest.param(torch.device("cuda", 0), id="cuda", marks=[pytest.mark.gpu, _missing(1)]),
)
"""For a measurement: on the processor it shows that the measuring works."""


def needs_gpus(number: int = 1) -> Any:
    """Return a decorator of a test that needs so many CUDA devices."""
    return lambda test: pytest.mark.gpu(_missing(number)(test))


def record(name: str, figures: Mapping[str, object], *, device: torch.device) -> None:
    """Print figures, and those of a GPU add to the file that TRADEWIND_BENCH_TO names, with the device's name."""
    print(json.dumps({name: figures}))  # noqa: T201 - what the measurement is for
    path = Path(os.environ.get("TRADEWIND_BENCH_TO", ""))
    if device.type == "cpu" or not path.name:
        return
    about: dict[str, object] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    held = json.loads(path.read_text()) if path.exists() else {}
    kept = held if {key: held.get(key) for key in about} == about else about  # another device's figures are not kept
    path.write_text(json.dumps(kept | {name: figures}, indent=1) + "\n")
