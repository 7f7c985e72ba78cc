"""On what a training ran: one machine and one set of packages, or several, when a later start had others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from include.training.provenance import loaded_packages, one_after_the_other, packages_after, processor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.training.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the last digits of a training depend on, beside its job and its code.

    Args:
        machine: The device, the processor, and how many of each compute.
        packages: Versions of the libraries.
    """

    machine: Mapping[str, str]
    packages: Mapping[str, str]

    @classmethod
    def here(cls, ranks: Ranks) -> Self:
        """Return what this process computes on, and which packages it has loaded until now."""
        import torch

        is_gpu = ranks.device.type == "cuda"
        machine = {
            "device": torch.cuda.get_device_name(ranks.device) if is_gpu else "cpu",
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "num_threads": str(torch.get_num_threads()),
            "world_size": str(ranks.world_size),
            "processor": processor(),
        }
        return cls(machine=machine, packages=loaded_packages())

    def to_state(self) -> dict[str, dict[str, str]]:
        """Return it as a checkpoint keeps it."""
        return {"machine": dict(self.machine), "packages": dict(self.packages)}

    def after(self, state: Mapping[str, Mapping[str, str]]) -> Self:
        """Return the origin of a training that goes on here; checkpoints of older releases tell nothing of it."""
        machine = one_after_the_other(state.get("machine", {}), self.machine)
        return type(self)(machine=machine, packages=packages_after(state.get("packages", {})))
