"""The training command: `python -m include.training --job <uri of job.json>`, on a laptop, in a pod, under torchrun.

Exit codes: see `exit_codes.py`. SIGTERM saves a checkpoint, the next start continues from it.
"""

from __future__ import annotations

import contextlib
import os
import sys

from include.training.command import main

if __name__ == "__main__":
    code = main(sys.argv[1:])
    with contextlib.suppress(OSError):  # what a full disk does not take must not change how it ends
        sys.stdout.flush()
    os._exit(code)  # every file is written; taking torch apart would last another 1.2 s
