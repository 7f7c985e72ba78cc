from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from include.runtime.logs import LogLimits, rotate

if TYPE_CHECKING:
    from pathlib import Path

NUM_LINES = 100_000
WRITER = f"for number in range({NUM_LINES}): print(f'{{number:07d}}', flush=True)"


def test_a_process_writes_on_while_its_log_is_rotated(tmp_path: Path) -> None:
    log = tmp_path / "writer.log"
    with log.open("ab") as output:
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=output)
    num_rotations = 0
    while writer.poll() is None:
        num_rotations += rotate(log, LogLimits(max_bytes=10_000, num_kept=1000))

    assert num_rotations > 2
    rotated = [tmp_path / f"writer.log.{number}" for number in range(num_rotations, 0, -1)]
    lines = "".join(path.read_text() for path in [*rotated, log]).splitlines()
    numbers = [int(line) for line in lines if len(line) == 7]
    assert numbers == sorted(set(numbers))  # none twice, none out of order
    # It does nothing but write, so some of it falls between copying and cutting; nothing is lost anywhere else.
    gaps = [after - before - 1 for before, after in pairwise([-1, *numbers, NUM_LINES]) if after != before + 1]
    assert len(gaps) <= num_rotations
    assert sum(gaps) < NUM_LINES / 2


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    for number in range(5):
        log.write_text(f"{number}")
        assert rotate(log, LogLimits(max_bytes=1, num_kept=2))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "server.log": "",
        "server.log.1": "4",
        "server.log.2": "3",
    }


@pytest.mark.parametrize(("num_bytes", "is_rotated"), [(9, False), (10, True)])
def test_a_small_log_stays(tmp_path: Path, num_bytes: int, is_rotated: bool) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(b"x" * num_bytes)
    assert rotate(log, LogLimits(max_bytes=10)) is is_rotated
