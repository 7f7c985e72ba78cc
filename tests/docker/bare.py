"""Runs a module with the packages of a lock and no others: `bare.py <lock> <module> [argument ...]`.

It stands in for a virtual environment of the lock, which takes minutes to make: other packages that are installed here
cannot be imported.
"""

from __future__ import annotations

import re
import runpy
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from importlib.machinery import ModuleSpec


class NotInTheLock(MetaPathFinder):
    """Finds no package that a lock does not bring."""

    def __init__(self, lock: str) -> None:
        locked = {_normal(name) for name in re.findall(r"(?m)^([\w.-]+)(?:\[.*\])?==", lock)}
        self.hidden = {top for top, names in packages_distributions().items() if not _any_of(names, locked)}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        del path, target
        if fullname.partition(".")[0] in self.hidden:
            raise ModuleNotFoundError(f"No module named {fullname!r}: the lock has none", name=fullname)
        return None


def _any_of(names: Collection[str], locked: Collection[str]) -> bool:
    return any(_normal(name) in locked for name in names)


def _normal(name: str) -> str:
    """Return a name as locks may spell it; a build for GPUs, which brings the same modules, goes by the plain name."""
    return re.sub(r"[-_.]+", "-", name).lower().removesuffix("-gpu")


if __name__ == "__main__":
    lock, module, *arguments = sys.argv[1:]
    sys.meta_path.insert(0, NotInTheLock(Path(lock).read_text()))
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
