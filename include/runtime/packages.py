"""Install locked packages into the running virtual environment, or make the locks; only the standard library is needed.

`python -m include.runtime.packages install requirements.txt ...` or `... lock`. uv does the work, with the user's own
pip settings (indexes, find-links, certificate), which uv does not read by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

UV = "uv==0.13.8"
MIN_FREE_GIB = 6
_AS_LOCKED = ("--constraint", "requirements.txt")
_CUDA_LOCK = "requirements-train-cuda.txt"
_LOCKS = {  # each lock and what it is compiled from, in this order
    "requirements.txt": ("requirements.in",),
    "requirements-train.txt": ("requirements-train.in", *_AS_LOCKED),
    _CUDA_LOCK: ("requirements-train.in", *_AS_LOCKED),
    "requirements-serve.txt": ("requirements-serve.in", *_AS_LOCKED),
    "requirements-dev.txt": ("requirements-dev.in", *_AS_LOCKED),
}
_TORCH = re.compile(r"(?m)^(torch==[0-9.]+)(\+\w+)?$")
# pip option -> uv's variable; uv takes lists separated by spaces (indexes) or commas (find-links).
_UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}


def main(arguments: list[str]) -> int:
    """Run one command; return the process's exit code."""
    command, *locks = arguments
    return lock() if command == "lock" else install(locks)


def install(locks: list[str]) -> int:
    """Install the locks unless they are installed already; return the exit code."""
    environment = Path(sys.prefix)
    stamp = environment / ".tradewind-locks.json"
    wanted = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in locks}
    installed = json.loads(stamp.read_text()) if stamp.exists() else {}
    if installed | wanted == installed:
        return 0
    if problem := _problem(environment):
        sys.stderr.write(f"error: {problem}\n")
        return 1
    sys.stderr.write(f"Installing {' and '.join(locks)} into {environment.name} (about 3 GB, once)\n")
    requirements = [word for path in locks for word in ("-r", path)]
    code = _uv("pip", "install", "--python", sys.executable, "--compile-bytecode", *requirements)
    if code == 0:
        stamp.write_text(json.dumps(installed | wanted))
    return code


def lock() -> int:
    """Compile the .in files into the locks: requirements.txt first, whose versions hold for the others."""
    options = ("--python-version", "3.11", "--no-emit-find-links", "--no-emit-index-url", "--quiet")
    for name, sources in _LOCKS.items():
        # uv prefers what the old lock names, and there that is not the machine's own build of torch.
        path = Path(name)
        path.write_text(_TORCH.sub("", path.read_text()) if path.exists() else "")
        # The package index has torch's CUDA build, and with it NVIDIA's libraries; the machine's own files may not.
        ignored = {"UV_FIND_LINKS"} if name == _CUDA_LOCK else set()
        if code := _uv("pip", "compile", *options, *sources, "-o", name, ignored=ignored):
            return code
        # The build of torch (CPU or CUDA) is the machine's choice, so its local version is not locked.
        path.write_text(_TORCH.sub(r"\1", path.read_text()))
    return 0


def _uv(*arguments: str, ignored: Collection[str] = ()) -> int:
    pip = [sys.executable, "-m", "pip"]
    if not Path(sys.prefix, "bin", "uv").exists():
        subprocess.run([*pip, "install", "--quiet", "--disable-pip-version-check", UV], check=True)
    uv = [sys.executable, "-m", "uv"]
    env = {name: value for name, value in _uv_environment(pip).items() if name not in ignored}
    return subprocess.run([*uv, *arguments], check=False, env=env).returncode


def _problem(environment: Path) -> str | None:
    if sys.version_info[:2] != (3, 11):
        found = ".".join(map(str, sys.version_info[:2]))
        return f"Tradewind's lock is for Python 3.11; got {found}. Remove {environment} and put python3.11 on the PATH."
    free_gib = shutil.disk_usage(environment).free >> 30
    if free_gib < MIN_FREE_GIB:
        return (
            f"the packages need {MIN_FREE_GIB} GiB on the disk of {environment}; got {free_gib} GiB. Free some space."
        )
    return None


def _uv_environment(pip: list[str]) -> dict[str, str]:
    """Return the environment for uv, with pip's settings from its files and variables; uv's own variables win."""
    listed = subprocess.run([*pip, "config", "list"], check=True, capture_output=True, text=True).stdout
    settings = {}
    for line in listed.splitlines():  # for example: global.find-links='/a /b' or :env:.find-links='/a'
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2].replace("_", "-")] = value.strip("'\"").replace("\\n", " ").split()
    env = dict(os.environ)
    for option, variable in _UV_VARIABLES.items():
        if option in settings and variable not in env:
            env[variable] = ("," if option == "find-links" else " ").join(settings[option])
    if "extra-index-url" in settings:
        env.setdefault(
            "UV_INDEX_STRATEGY", "unsafe-best-match"
        )  # as pip does: the best version of all the user's indexes
    return env


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
