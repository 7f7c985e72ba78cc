"""Load on a server on loopback: as much as it takes, by wrk, or at a constant rate, by a client of our own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOPBACK = "127.0.0.1"
SERVER_CORE, CLIENT_CORE = "0", "1"
_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of a server, and where.

    Args:
        port: On loopback.
        path: What is posted to.
        bodies: File with one JSON body a line; they are sent in turn.
    """

    port: int
    path: str
    bodies: Path


def write_bodies(path: Path, bodies: Sequence[bytes]) -> Path:
    """Write bodies, none of which has a line's end in it, one a line."""
    path.write_bytes(b"".join(body + b"\n" for body in bodies))
    return path


def on_core(core: str, *command: str | Path) -> list[str]:
    """Return a command that runs on one core only."""
    return ["taskset", "--cpu-list", core, *map(str, command)]


def require_load_tools() -> dict[str, str]:
    """Return the versions of what makes the load.

    Raises:
        SetupError: wrk or taskset is missing.
    """
    for tool, package in {"wrk": "wrk", "taskset": "util-linux"}.items():
        if shutil.which(tool) is None:
            raise SetupError(
                f"the serving bench must have {tool} on the PATH; got none. Nothing was measured. On Debian: apt-get "
                f"install {package}"
            )
    told = subprocess.run(["wrk", "--version"], check=False, capture_output=True, text=True).stdout
    return {"wrk": told.split(" ")[1], "paced_client": "own"}


def most_requests_per_s(asked: Asked, *, num_connections: int, seconds: float) -> float:
    """Return answers a second with so many connections, each of which asks again once it is answered.

    Raises:
        RuntimeError: An answer was no 2xx.
    """
    url = f"http://{LOOPBACK}:{asked.port}{asked.path}"
    load = ("--threads", "1", "--connections", str(num_connections), "--duration", f"{seconds:.0f}s")
    command = on_core(CLIENT_CORE, "wrk", *load, "--script", _HERE / "post.lua", url, "--", asked.bodies)
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    found = json.loads(told.splitlines()[-1])
    if found["not_2xx"] or not found["requests"]:
        raise RuntimeError(f"{url}: {found}")
    return float(found["requests"] / found["duration_us"] * 1e6)


def paced(
    asked: Asked, *, rate_per_s: float, seconds: float, num_connections: int = 64, core: str | None = CLIENT_CORE
) -> dict[str, Any]:
    """Return the latencies at a constant rate, as paced_client.py says them; without a core, on whichever is free."""
    options = {
        "port": asked.port,
        "path": asked.path,
        "bodies": str(asked.bodies),
        "rate_per_s": rate_per_s,
        "seconds": seconds,
        "num_connections": num_connections,
    }
    command = [sys.executable, "-I", str(_HERE / "paced_client.py"), json.dumps(options)]
    command = command if core is None else on_core(core, *command)
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
