"""`python -m tests.kubernetes.run_sequences tradewind 0 500`: run fault sequences, one line of JSON each."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHARED_MEMORY = Path("/dev/shm")
_STUCK_S = 120.0


@contextlib.contextmanager
def lake() -> Iterator[Path]:
    """Yield a temporary folder, in memory where that is possible: a sequence is about time, not about disks."""
    where = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tw-", dir=where) as folder:
        yield Path(folder)


def main(operator: str, first: str, end: str) -> None:
    """Run the sequences from one seed up to another."""
    from tests.fake_airflow import fake_airflow
    from tests.kubernetes import operators_under_test
    from tests.kubernetes.sequences import measure, run_sequence
    from tests.kubernetes.world import MODEL

    make_operator, answer = getattr(operators_under_test, operator), sys.stdout
    with contextlib.redirect_stdout(sys.stderr), fake_airflow(MODEL) as airflow_api:  # Airflow's task runner prints
        with lake() as folder:
            extent = measure(make_operator, folder)
        for seed in range(int(first), int(end)):
            faulthandler.dump_traceback_later(_STUCK_S, exit=True)
            with lake() as folder:
                ending = run_sequence(seed, make_operator, folder, extent, airflow_api=airflow_api)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(ending.as_dict), file=answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
