"""Runs of a Dag whose tasks end as told; a process of its own, for it needs an Airflow database.

    AIRFLOW_HOME=<empty folder> python -m tests.dags.closing_paths deploy '[{"promote": "fail"}]'

It prints, for each path, the run's state, the tasks' states, and how many events each asset got.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.models.asset import AssetEvent
from airflow.sdk.exceptions import AirflowSkipException
from airflow.utils.db import initdb
from airflow.utils.session import create_session

from include.errors import GateError
from tests.dags.test_rollout_dags import module_of

MODEL = "flight_delays"


def main(stage: str, paths: list[dict[str, str]]) -> None:
    """Run the Dag of a stage once for each path and print what came of it."""
    initdb()
    dag = getattr(module_of(stage), f"{stage}_{MODEL}")
    ends: dict[str, str] = {}

    def execute(operator: Any, context: Any) -> dict[str, str]:
        end = ends.get(operator.task_id, "pass")
        if end == "fail":
            raise GateError(f"{operator.task_id} fails on this path")
        if end == "skip":
            raise AirflowSkipException(f"{operator.task_id} skips on this path")
        return {"version": "7", "job_uri": "x", "model": MODEL, "outcome": "done"}

    for task in dag.tasks:
        if task.task_type != "EmptyOperator":
            type(task).execute = execute
    found = []
    for number, path in enumerate(paths):
        ends.clear()
        ends.update(path)
        run = dag.test(logical_date=datetime(2013, 2, 1, tzinfo=UTC) + timedelta(days=number))
        with create_session() as session:
            events = session.query(AssetEvent).filter(AssetEvent.source_run_id == run.run_id).all()
            names = [event.asset.name for event in events]
            states = {ti.task_id: str(ti.state) for ti in run.get_task_instances(session=session)}
        found.append({"run": str(run.state), "states": states, "events": names})
    sys.__stdout__.write(json.dumps(found) + "\n")  # type: ignore[union-attr]  # there is one in a subprocess


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
