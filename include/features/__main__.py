"""`python -m include.features --storage ROOT`: bring Feast's registry to what the models' specs declare.

A materialization does this itself when a spec has changed; done beforehand, no task pays for importing Feast.
"""

from __future__ import annotations

import argparse

from include.features.feast_repository import ensure_applied
from include.lake.storage import Storage
from include.spec import load_spec, model_names

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="include.features", description=__doc__)
    parser.add_argument("--storage", required=True, help="root of a lake on a local disk")
    storage = Storage(root=parser.parse_args().storage)
    for name in model_names():
        spec = load_spec(name)
        if spec.features.store:
            ensure_applied(spec=spec, storage=storage)
