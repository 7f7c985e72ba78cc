"""Parse Dag files as the Dag processor does, each in a fork, and say what that took and brought in.

A script, run by path: `python include/testing/probe.py ROOT FILE...` writes two lines of JSON for each file, as the
first may tell of the bytecode that was written. The root of the bundle comes last on the path, as Airflow puts it
there, and Tradewind's own root behind it: a bundle that lies elsewhere finds the operators there. The process holds
Airflow and nothing else before it forks.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

MARK = "DAG-FILE "
_TRADEWIND = Path(__file__).resolve().parents[2]


def main(root: str, files: list[str]) -> None:
    """Write what parsing each file takes, brings in and finds."""
    roots = dict.fromkeys((Path(root).resolve(), _TRADEWIND))
    own = {Path(__file__).resolve().parent, *roots}
    sys.path[:] = [*(entry for entry in sys.path if Path(entry).resolve() not in own), *map(str, roots)]
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=root, collect_dags=False, load_op_links=False)
    before = set(sys.modules)
    for file in (file for file in files for _ in range(2)):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            found = {"file": file, **_parse(file, bag=bag, before=before)}
            sys.stdout.write(f"{MARK}{json.dumps(found)}\n")
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)


def _parse(file: str, *, bag: Any, before: set[str]) -> dict[str, Any]:
    asked = _watched_lookups()
    started_s = time.process_time()
    bag.process_file(file, only_if_updated=False, safe_mode=False)
    seconds = time.process_time() - started_s
    new = set(sys.modules) - before
    places = {name: getattr(sys.modules[name], "__file__", None) for name in new if "." not in name}
    return {
        "seconds": seconds,
        "loaded": sorted({name.partition(".")[0] for name in new}),
        "places": places,
        "errors": list(bag.import_errors.values()),
        "asked": asked,
        "dags": [_dag(dag) for _, dag in sorted(bag.dags.items())],
    }


def _watched_lookups() -> list[str]:
    """Return a list that gets the id of each variable and connection that is looked up from now on."""
    from airflow.sdk.execution_time import context

    asked: list[str] = []

    def watch(kind: str, look_up: Any) -> Any:
        def note(name: str, *rest: Any, **named: Any) -> Any:
            asked.append(f"{kind} {name!r}")
            return look_up(name, *rest, **named)

        return note

    context._get_variable = watch("variable", context._get_variable)  # noqa: SLF001 - where all lookups end
    context._get_connection = watch("connection", context._get_connection)  # noqa: SLF001 - same
    return asked


def _dag(dag: Any) -> dict[str, Any]:
    start = dag.start_date
    return {
        "dag_id": dag.dag_id,
        "is_documented": bool((dag.doc_md or "").strip()),
        "start_date": start.isoformat() if start else None,
        "params": {name: dag.params.get_param(name).description or "" for name in dag.params},
        "tasks": [
            {
                "task_id": task.task_id,
                "type": task.task_type,
                "retries": task.retries,
                "timeout_s": task.execution_timeout.total_seconds() if task.execution_timeout else None,
            }
            for task in dag.tasks
        ],
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
