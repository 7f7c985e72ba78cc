"""A version is tried out before it may enter the server: `python -m include.serving.sandbox`, a process with limits.

A graph may crash, hang, or take all memory as soon as it is opened or run. So the server verifies a package's bytes and
hands them to a child, which opens them, scores the golden rows and times them. Whatever becomes of the child, the
server goes on as it was. That is for graphs that misbehave; it is no boundary against native code.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from include import errors
from include.errors import CorruptArtifactError, GateError, TradewindError
from include.registry.package import ENCODING, GOLDEN, SERVED_GRAPH, Package
from include.serving.landlock import landlock_version, restrict_to_reading
from include.serving.versions import open_package
from include.spec.model import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
"""What the child inherits; in particular no token and no credentials."""

ABSURD_LATENCY_RATIO = 10.0
ABSURD_LATENCY_MS = 500.0
"""Milliseconds for the golden rows that are never absurd, whatever the champion takes."""

MAX_REASON_CHARS = 300
_PR_SET_NO_NEW_PRIVS = 38
_LOST_MEMORY = ("bad_alloc", "bad allocation", "MemoryError", "Failed to allocate")


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What the child may take.

    Args:
        memory_gib: Memory that it may write to.
        cpu_s: Seconds of all its threads together.
        wall_s: Seconds from start to answer.
    """

    memory_gib: float = 4.0
    cpu_s: int = 20
    wall_s: float = 60.0


class _Asked(msgspec.Struct):
    spec: bytes
    version: str
    uri: str
    digest: str
    contents: dict[str, bytes]
    limits: dict[str, float]


def try_out(
    package: Package, *, spec: ModelSpec, version: str, limits: SandboxLimits, champion_ms: float | None = None
) -> dict[str, Any]:
    """Return how a child process scored the golden rows of a verified package, as `check_golden` does.

    Args:
        package: The package.
        spec: The model's spec.
        version: The version.
        limits: What the child may take.
        champion_ms: Median latency of the champion's golden rows, None without a champion.

    Raises:
        CorruptArtifactError: The child crashed, hung, took too much memory, or the graph does not run.
        BadInputError: The package was trained on other inputs, or for another task, than the spec declares.
        GateError: The scores differ from the recorded ones, or took absurdly long.
    """
    named = f"{spec.name!r} v{version}"
    found = _answer(_run(package, spec=spec, version=version, limits=limits), named=named, limits=limits)
    if not found["passed"]:
        raise GateError(
            f"golden requests of {named} must be within {found['tolerance']:g} of the recorded scores; got "
            f"{found['max_abs_diff']:.3g} over {found['num_rows']} rows. It was not loaded. Compare the server's "
            "onnxruntime with the trainer's."
        )
    limit_ms = max(ABSURD_LATENCY_MS, ABSURD_LATENCY_RATIO * (champion_ms or 0.0))
    if champion_ms is not None and found["latency_median_ms"] > limit_ms:
        raise GateError(
            f"golden requests of {named} must take at most {limit_ms:.3g} ms (champion {champion_ms:.3g} ms); got "
            f"{found['latency_median_ms']:.3g} ms in the median. It was not loaded. Make the graph smaller."
        )
    return found


def _run(
    package: Package, *, spec: ModelSpec, version: str, limits: SandboxLimits
) -> subprocess.CompletedProcess[bytes] | None:
    """Return the ended child, None if it did not end in time."""
    asked = _Asked(
        spec=spec.model_dump_json().encode(),
        version=version,
        uri=package.uri,
        digest=package.digest,
        contents={
            name: package.contents[name] for name in (ENCODING, GOLDEN, SERVED_GRAPH) if name in package.contents
        },
        limits=asdict(limits),
    )
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ},
        start_new_session=True,
    ) as child:
        try:
            said = child.communicate(msgspec.msgpack.encode(asked), timeout=limits.wall_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # with whatever it has started
    return subprocess.CompletedProcess(child.args, child.returncode, *said)


def _answer(ended: subprocess.CompletedProcess[bytes] | None, *, named: str, limits: SandboxLimits) -> dict[str, Any]:
    """Return what the child found; raise what it raised, or what became of it."""
    try:
        answer = json.loads(ended.stdout) if ended else {}
    except ValueError:
        answer = {}
    if "found" in answer:
        return dict(answer["found"])
    if "error" in answer and not any(text in answer["error"] for text in _LOST_MEMORY):
        kind = getattr(errors, answer["kind"], CorruptArtifactError)
        raise kind(answer["error"])
    raise CorruptArtifactError(
        f"{named} must load and score its golden rows in a process of its own, within {limits.memory_gib:g} GiB and "
        f"{limits.cpu_s} s of CPU time; {_end_of(ended, answer, limits=limits)}. It was not loaded; what is served is "
        "untouched. Look at its graph, and register another version."
    )


def _end_of(
    ended: subprocess.CompletedProcess[bytes] | None, answer: Mapping[str, Any], *, limits: SandboxLimits
) -> str:
    if ended is None or ended.returncode == -signal.SIGALRM:
        return f"it hung: no answer after {limits.wall_s:g} s"
    if ended.returncode == -signal.SIGXCPU:
        return f"it hung: it still ran after {limits.cpu_s} s of CPU time"
    if "error" in answer:
        return f"it needed more memory: {answer['error'][:MAX_REASON_CHARS]}"
    said = ended.stderr.decode(errors="replace").strip()[-MAX_REASON_CHARS:]
    if ended.returncode < 0:
        return f"it crashed with {signal.Signals(-ended.returncode).name}" + (f": {said}" if said else "")
    return f"it ended with status {ended.returncode}: {said or 'without a word'}"


def main() -> int:
    """Try out what stdin holds, and print what was found, or the error, as JSON."""
    asked = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Asked)
    spec = ModelSpec.model_validate_json(asked.spec)
    package = Package(
        uri=asked.uri, model=spec.name, digest=asked.digest, files={}, created_by_job="", contents=asked.contents
    )
    _confine(SandboxLimits(**asked.limits))  # type: ignore[arg-type]
    # Libraries are loaded after this: they start threads, which a process cannot bind later.
    if spec.serving.provider == "cpu" and landlock_version():  # a GPU's driver needs files that only it knows
        restrict_to_reading(_readable())
    try:
        answer: dict[str, Any] = {"found": open_package(package, spec, asked.version).check_golden()}
    except TradewindError as error:
        answer = {"kind": type(error).__name__, "error": str(error)}
    sys.stdout.write(json.dumps(answer))
    return 0


def _confine(limits: SandboxLimits) -> None:
    """Give up what opening a graph does not need; a server that is killed leaves no child behind for long."""
    memory_bytes = int(limits.memory_gib * (1 << 30))
    # Not RLIMIT_AS: GPU libraries reserve far more addresses than they use.
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (int(limits.cpu_s), int(limits.cpu_s) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s)  # its default action ends a process in native code too
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _readable() -> list[Path]:
    """Return what the interpreter and onnxruntime read: code, and what the kernel says of the machine and of itself."""
    code = {Path(sys.prefix), Path(sys.base_prefix), *map(Path, sys.path)} - {ROOT, Path()}
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    system = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/sys", "/dev/null", "/dev/urandom", "/proc/self")
    told = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys")
    return [ROOT / "include", *sorted(code), *map(Path, filter(None, libraries)), *map(Path, system + told)]


if __name__ == "__main__":
    sys.exit(main())
