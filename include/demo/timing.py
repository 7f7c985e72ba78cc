"""Where the loop's seconds went, from Airflow's own record of its tasks."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from include.runtime.airflow_api import AirflowApi

_PAGE = 100
_WAITING = re.compile("wait|.*settled.*")
"""Tasks that only wait for something outside; their time is not work."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Wall seconds of one loop, and what filled them.

    Args:
        startup_s: From nothing running to all servers ready; the database's migration is set-up and not in here.
        loop_s: From the first landing to the last answer.
        work_s: Time in which at least one task worked.
        traffic_s: Time in which callers asked and no task worked.
        orchestration_s: The rest of the loop: Airflow between tasks, and waiting.
        stage_s: Stage -> seconds of its tasks, added up.
        num_tasks: Stage -> how many task tries ran.
    """

    startup_s: float
    loop_s: float
    work_s: float
    traffic_s: float
    orchestration_s: float
    stage_s: Mapping[str, float]
    num_tasks: Mapping[str, int]


def measure(api: AirflowApi, *, startup_s: float, loop_s: float, traffic: Iterable[tuple[float, float]]) -> Timing:
    """Return the timing of a finished loop.

    Args:
        api: The Airflow that ran it.
        startup_s: Measured by the caller.
        loop_s: Measured by the caller.
        traffic: Start and end of each month's requests, Unix seconds.
    """
    stage_s: dict[str, float] = defaultdict(float)
    num_tasks: dict[str, int] = defaultdict(int)
    worked = []
    for task in _task_instances(api):
        if not task["start_date"] or not task["end_date"] or _WAITING.fullmatch(task["task_id"]):
            continue
        start, end = (datetime.fromisoformat(task[name]).timestamp() for name in ("start_date", "end_date"))
        stage = task["dag_id"].split("_", 1)[0]
        stage_s[stage] += end - start
        num_tasks[stage] += 1
        worked.append((start, end))
    work_s = union_s(worked)
    busy_s = union_s([*worked, *traffic])
    return Timing(
        startup_s=startup_s,
        loop_s=loop_s,
        work_s=work_s,
        traffic_s=busy_s - work_s,
        orchestration_s=max(0.0, loop_s - busy_s),
        stage_s=dict(stage_s),
        num_tasks=dict(num_tasks),
    )


def union_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of the spans (start, end) lasted.

    >>> union_s([(0, 2), (1, 3), (5, 6)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _task_instances(api: AirflowApi) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = api.get("dags/~/dagRuns/~/taskInstances", limit=_PAGE, offset=len(found))["task_instances"]
        found += page
        if len(page) < _PAGE:
            return found
