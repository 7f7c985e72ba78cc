"""NVIDIA's management library, as far as a training needs it; it comes with the driver, so without one there is none.

Called directly: some functions of a stable C interface, against a package more in every trainer image. Source: NVML API
reference, device queries and multi instance GPU management (nvml.h).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
_OK = 0
_TEXT_BYTES = 96


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """One GPU at one moment.

    Attributes:
        name: Of the product.
        used_frac: Share of the last sample period in which a kernel ran; None where the GPU does not say, as a MIG
            slice does not.
        used_bytes: Memory in use, by all processes.
        free_bytes: Memory that is free.
    """

    name: str
    used_frac: float | None
    used_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Nvml:
    """The loaded library."""

    library: Any

    @classmethod
    def load(cls, name: str = LIBRARY) -> Nvml | None:
        """Return the library, None on a machine without a driver, or with one that does not work."""
        try:
            library = ctypes.CDLL(name)
            return cls(library) if library.nvmlInit_v2() == _OK else None
        except (OSError, AttributeError):
            return None

    def driver(self) -> str:
        """Return the driver's version, empty if it does not say."""
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        self.library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(_TEXT_BYTES))
        return text.value.decode(errors="replace")

    def gpus(self) -> list[GpuState]:
        """Return the GPUs that this process may see by the driver, each as it is now; one that fails is left out."""
        count = ctypes.c_uint()
        if self.library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != _OK:
            return []
        handles = [handle for index in range(count.value) for handle in self._handles(index)]
        return [gpu for handle in handles if (gpu := self._gpu(handle)) is not None]

    def _handles(self, index: int) -> list[ctypes.c_void_p]:
        """Return a GPU, or the slices of it that this process may see: a slice knows its own memory, the whole not."""
        whole, mode, pending = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
        if self.library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(whole)) != _OK:
            return []
        try:
            status = self.library.nvmlDeviceGetMigMode(whole, ctypes.byref(mode), ctypes.byref(pending))
        except AttributeError:  # a driver from before there were slices
            return [whole]
        num_slices = ctypes.c_uint()
        if status != _OK or not mode.value:
            return [whole]
        self.library.nvmlDeviceGetMaxMigDeviceCount(whole, ctypes.byref(num_slices))
        found = [ctypes.c_void_p() for _ in range(num_slices.value)]
        by_index = self.library.nvmlDeviceGetMigDeviceHandleByIndex
        return [one for at, one in enumerate(found) if by_index(whole, ctypes.c_uint(at), ctypes.byref(one)) == _OK]

    def _gpu(self, handle: ctypes.c_void_p) -> GpuState | None:
        name = ctypes.create_string_buffer(_TEXT_BYTES)
        memory, utilization = _Memory(), _Utilization()
        if self.library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != _OK:
            return None
        self.library.nvmlDeviceGetName(handle, name, ctypes.c_uint(_TEXT_BYTES))
        says = self.library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(utilization)) == _OK
        return GpuState(
            name=name.value.decode(errors="replace"),
            used_frac=utilization.gpu / 100 if says else None,
            used_bytes=memory.used,
            free_bytes=memory.free,
        )
