"""What, beside job and code, decides the bytes of a trained model: packages and the kind of processor."""

from __future__ import annotations

import contextlib
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CPUINFO = Path("/proc/cpuinfo")
_OTHERWISE_NAMED = ("onnxruntime-gpu", "protobuf", "PyYAML")
"""Packages whose module has another name than they have."""


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed, in order; Python's own is `python`."""
    found = {"python": platform.python_version()}
    for name in sorted(set(names) - {"python"}, key=str.lower):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def loaded_packages() -> dict[str, str]:
    """Return the versions of the packages that this process has loaded: those that took part."""
    modules = {name.partition(".")[0] for name in sys.modules}
    return versions((modules - set(sys.stdlib_module_names)) | set(_OTHERWISE_NAMED))


def processor() -> str:
    """Return the kind of this machine's processor: another one may sum in another order.

    >>> bool(processor())
    True
    """
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
