"""What, beside job and code, decides the bytes of a trained model: packages and the kind of processor."""

from __future__ import annotations

import contextlib
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ABSENT = "none"
"""In place of the version of a package that is not there."""
_THEN = ", then "
_CPUINFO = Path("/proc/cpuinfo")
_OTHERWISE_NAMED = {
    "functorch": "torch",
    "google": "protobuf",
    "onnxruntime": "onnxruntime-gpu",
    "torchgen": "torch",
    "yaml": "PyYAML",
}
"""Modules that have another name than their package, of those that each training loads."""


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed, in order; Python's own is `python`."""
    found = {"python": platform.python_version()}
    for name in sorted(set(names) - {"python"}, key=str.lower):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def loaded_packages() -> dict[str, str]:
    """Return the versions of the packages that this process has loaded: those that took part."""
    modules = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
    found = versions({*modules, *(_OTHERWISE_NAMED[name] for name in modules & _OTHERWISE_NAMED.keys())})
    known = {_normal(name) for name in found} | _OTHERWISE_NAMED.keys()
    strange = {name for name in modules if _normal(name) not in known and _is_installed(name)}
    return versions({*found, *_packages_of(frozenset(strange))}) if strange else found


@cache
def _packages_of(modules: frozenset[str]) -> frozenset[str]:
    """Return the packages that bring modules of other names; all that are installed are read for it, up to a second."""
    return frozenset(
        package for name, packages in packages_distributions().items() if name in modules for package in packages
    )


def _is_installed(module: str) -> bool:
    """Return whether a loaded module lies where packages are installed; one with an underscore is of another one."""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return not module.startswith("_") and "site-packages" in Path(file).parts


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def packages_after(before: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of the packages that this process has loaded, after those that earlier starts had loaded."""
    return one_after_the_other(before, versions({*before, *loaded_packages()}))


def one_after_the_other(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return what was and what is, both where they differ; what was not looked at before is as now.

    >>> one_after_the_other({"world_size": "2", "device": "cpu"}, {"world_size": "1", "device": "cpu"})
    {'world_size': '2, then 1', 'device': 'cpu'}
    >>> one_after_the_other({"world_size": "2, then 1"}, {"world_size": "1"})
    {'world_size': '2, then 1'}
    """
    found = dict(now)
    for name, value in before.items():
        current = now.get(name, ABSENT)
        found[name] = value if value.rpartition(_THEN)[2] == current else f"{value}{_THEN}{current}"
    return found


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
