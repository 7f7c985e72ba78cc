"""In which numbers a network computes; its weights, their averages and the loss stay in 32 bits."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from include.errors import BadInputError

if TYPE_CHECKING:
    from include.spec.training import PrecisionName
    from include.training.optimizer import AdamW

_TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_LEAST_SCALE = 2.0**-14
"""Below it, gradients that still overflow are not the fault of fp16: it starts at 2^16 and halves on each overflow."""


class Precision:
    """Runs the network in a precision, and for fp16 scales the loss so that small gradients do not vanish.

    Scaling as in Micikevicius et al., Mixed Precision Training, ICLR 2018, section 3.2, by torch's GradScaler.

    Args:
        name: fp32, bf16 or fp16.
        device: Where the network is.
    """

    def __init__(self, name: PrecisionName, *, device: torch.device) -> None:
        self._type, self._device = _TYPES[name], device.type
        self._scaler = torch.amp.GradScaler(self._device) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context to run the network in."""
        return torch.autocast(self._device, dtype=self._type) if self._type else nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add a loss' gradients."""
        (self._scaler.scale(loss) if self._scaler else loss).backward()

    def step(self, optimizer: AdamW) -> None:
        """Learn from the gradients; a step whose scaled gradients overflow is left out."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()

    @property
    def is_lost(self) -> bool:
        """Whether gradients overflow at any scale: the weights do not change any more."""
        return self._scaler is not None and self._scaler.get_scale() < _LEAST_SCALE

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs."""
        return dict(self._scaler.state_dict()) if self._scaler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        if self._scaler:
            self._scaler.load_state_dict(state)


def require_precision(name: PrecisionName, *, device: torch.device, model: str) -> None:
    """Refuse a precision that a device has not.

    Raises:
        BadInputError: fp16 without a GPU, where it gains nothing, or bf16 on a GPU that only emulates it.
    """
    is_gpu = device.type == "cuda"
    if name == "fp16" and not is_gpu:
        found = f"{device.type}"
    elif name == "bf16" and is_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        found = torch.cuda.get_device_name(device)
    else:
        return
    needed = "a CUDA device" if name == "fp16" else "a CPU, or a CUDA device that has it"
    raise BadInputError(
        f"training of {model!r} with precision {name} needs {needed}; got {found}. Nothing was trained. Set "
        "training.precision to fp32, or choose a profile with such a GPU."
    )
