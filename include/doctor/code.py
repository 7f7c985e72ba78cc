"""Whether the code that runs is the code that was locked, committed and declared."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from include.doctor.finding import fail, ok, warn
from include.errors import TradewindError
from include.runtime.home import REPO
from include.spec import MODELS_DIR, load_spec, model_names
from include.training.commit import current_commit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.doctor.finding import Finding

_PINNED = re.compile(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)")
_NUM_SHOWN = 5


def check_code(*, models_dir: Path = MODELS_DIR) -> list[Finding]:
    """Return findings about the lock, the installed packages, the commit and each model's spec."""
    lock = REPO / "requirements.txt"
    stamp = Path(sys.prefix) / ".tradewind-locks.json"
    installed = {found.metadata["Name"]: found.version for found in distributions()}
    return [
        judge_lock(lock.read_bytes(), stamp=stamp.read_text() if stamp.exists() else "{}"),
        judge_packages(lock.read_text(), installed=installed),
        judge_commit(current_commit()),
        *check_specs(models_dir),
    ]


def judge_lock(lock: bytes, *, stamp: str) -> Finding:
    """Judge whether .venv was made from the lock as it is now."""
    if json.loads(stamp).get("requirements.txt") == hashlib.sha256(lock).hexdigest():
        return ok("lock", "requirements.txt is installed")
    return fail("lock", "requirements.txt has changed since .venv was made", "make setup")


def judge_packages(lock: str, *, installed: Mapping[str, str]) -> Finding:
    r"""Judge the installed versions by the lock; which build of torch it is (CPU, CUDA) is the machine's choice.

    >>> judge_packages("torch==2.1.0\nrich==15.0\n", installed={"torch": "2.1.0+cpu", "rich": "14.0"}).said
    '1 of 2 packages differ from the lock: rich 14.0 instead of 15.0'
    """
    held = {_normal(name): version.partition("+")[0] for name, version in installed.items()}
    pinned = {_normal(name): version.partition("+")[0] for name, version in _PINNED.findall(lock)}
    wrong = [
        f"{name} {held.get(name, 'missing')} instead of {version}"
        for name, version in pinned.items()
        if held.get(name) != version
    ]
    if not wrong:
        return ok("packages", f"{len(pinned)} packages are as locked")
    more = f" and {len(wrong) - _NUM_SHOWN} more" if len(wrong) > _NUM_SHOWN else ""
    said = f"{len(wrong)} of {len(pinned)} packages differ from the lock: {', '.join(wrong[:_NUM_SHOWN])}{more}"
    return fail("packages", said, "rm .venv/.tradewind-locks.json; make setup")


def judge_commit(commit: str) -> Finding:
    """Judge the commit by which a training names its code, and refuses any other."""
    if commit.startswith("no-git-"):
        return warn(
            "commit", f"{commit}: git does not know this code", "versions are traced by a hash of the code only"
        )
    if "-dirty-" in commit:
        said = f"{commit}: include/ has changes that are not committed"
        return warn("commit", said, "commit them: a training refuses code that changes before it starts (exit 64)")
    return ok("commit", commit)


def check_specs(models_dir: Path) -> list[Finding]:
    """Return a finding for each model's spec."""
    found = []
    for name in model_names(models_dir):
        try:
            spec = load_spec(name, models_dir)
        except TradewindError as error:
            found.append(fail(f"model {name}", str(error), f"./tradewind check {name}"))
        else:
            found.append(ok(f"model {name}", f"{spec.task}, partitions from {spec.source.first_partition}"))
    return found or [warn("models", f"{models_dir} has none", "./tradewind new")]


def _normal(name: str) -> str:
    """Return a project's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
