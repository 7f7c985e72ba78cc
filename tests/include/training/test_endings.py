"""Which exit code an error is, and who is told."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import pytest

from include.errors import BadInputError, ServiceError, SetupError
from include.training.endings import exit_code_of, tell_kubernetes
from include.training.exit_codes import ExitCode
from include.training.preflight import PreflightError

if TYPE_CHECKING:
    from pathlib import Path


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInputError("x"), ExitCode.BAD_DATA),
        (SetupError("the bucket's policy"), ExitCode.BAD_SETUP),
        (ServiceError("S3"), ExitCode.STORAGE_UNAVAILABLE),
        (PreflightError("no driver"), ExitCode.PREFLIGHT_FAILED),
        (
            caused(PreflightError("no GPU that computes"), RuntimeError("CUDA error: out of memory")),
            ExitCode.PREFLIGHT_FAILED,
        ),
        (OSError(errno.ENOSPC, "full"), ExitCode.PREFLIGHT_FAILED),
        (OSError(errno.EIO, "broken"), ExitCode.PREFLIGHT_FAILED),
        (caused(BadInputError("x"), OSError(errno.ENOSPC, "full")), ExitCode.PREFLIGHT_FAILED),
        (MemoryError(), ExitCode.OUT_OF_MEMORY),
        (OSError(errno.ENOMEM, "none"), ExitCode.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ExitCode.OUT_OF_MEMORY),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), ExitCode.OUT_OF_MEMORY),
        (ImportError("failed to map segment: Cannot allocate memory"), ExitCode.OUT_OF_MEMORY),
        (
            RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors..."),
            ExitCode.PREFLIGHT_FAILED,
        ),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), 1),
        (RuntimeError("shapes differ"), 1),
        (PermissionError(errno.EACCES, "no"), 1),
    ],
)
def test_an_error_is_whose_fault_it_is(error: Exception, code: int) -> None:
    assert exit_code_of(error, refused=ExitCode.BAD_DATA) == code


def test_a_container_keeps_the_code_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    tell_kubernetes(75, "interrupted", path=path)
    assert not path.exists()  # no container
    path.touch()
    tell_kubernetes(75, "\u00e4" * 5000, path=path)
    assert json.loads(path.read_text())["exit_code"] == 75
    assert path.stat().st_size <= 4096


def test_of_several_processes_the_first_error_is_kept_and_no_interruption_hides_one(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    path.write_text("words of another program")
    kept = []
    for code in (75, 75, 71, 75, 64):
        tell_kubernetes(code, f"ended with {code}", path=path)
        kept.append(json.loads(path.read_text())["exit_code"])
    assert kept == [75, 75, 71, 71, 71]
