"""The same job gives the same bytes: in other processes, with other threads, hashes, sessions and surroundings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from include.lake.storage import Storage
from include.training import command
from include.training.exit_codes import ExitCode
from include.training.result import read_result
from tests.snapshots import small_job, small_table

ROOT = Path(__file__).parents[3]
SURROUNDINGS = {
    "PYTHONHASHSEED": "2",
    "OMP_NUM_THREADS": "7",
    "MKL_NUM_THREADS": "2",
    "TZ": "Asia/Tokyo",
    "LC_ALL": "C.UTF-8",
}


def test_another_process_in_other_surroundings_writes_the_same_graph(tmp_path: Path) -> None:
    table = small_table(1500)
    storages = [Storage(root=str(tmp_path / name)) for name in ("there", "here")]
    there, here = [small_job(storage, table=table, dropout=0.2, input_dropout=0.1) for storage in storages]
    line = [sys.executable, "-m", "include.training", "--job", there.uri]
    child = subprocess.Popen(line, cwd=ROOT, env=os.environ | SURROUNDINGS, stdout=subprocess.PIPE, text=True)
    assert command.main(["--job", here.uri]) == ExitCode.DONE
    said, _ = child.communicate(timeout=150)
    assert child.returncode == 0, said
    results = [read_result(job, storage=storage) for job, storage in zip((there, here), storages, strict=True)]
    one, other = (result for result in results if result)
    assert one.files == other.files
    assert one.epochs == other.epochs
