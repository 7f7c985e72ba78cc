"""Run all tasks of a Dag once, in order, in this process: what their rules say about each other is held."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from include.testing.supervisor import FakeSupervisor
from include.testing.tasks import TaskResult, run_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airflow.sdk import DAG

_UNFORTUNATE: Final = ("failed", "upstream_failed")

# Trigger rule -> what becomes of a task, given how many of those before it ended how; None: it runs.
# Source: airflow.ti_deps.deps.trigger_rule_dep, for runs in which every task before has ended.
_RULES: Final[Mapping[str, Callable[[Counter[str]], str | None]]] = {
    "all_success": lambda n: "upstream_failed" if n["failed"] else "skipped" if n["skipped"] else None,
    "all_failed": lambda n: "skipped" if n["success"] or n["skipped"] else None,
    "all_done": lambda _: None,
    "all_skipped": lambda n: "skipped" if n["success"] or n["failed"] else None,
    "always": lambda _: None,
    "one_success": lambda n: None if n["success"] else "upstream_failed" if n["failed"] else "skipped",
    "one_failed": lambda n: None if n["failed"] else "skipped",
    "none_failed": lambda n: "upstream_failed" if n["failed"] else None,
    "none_skipped": lambda n: "skipped" if n["skipped"] else None,
    "none_failed_min_one_success": lambda n: "upstream_failed" if n["failed"] else None if n["success"] else "skipped",
}


def run_dag(dag: DAG, *, supervisor: FakeSupervisor | None = None, **how: Any) -> dict[str, TaskResult]:
    """Run each task of a Dag with all its tries, one after the other; return task id -> how it ended.

    There is no scheduler: nothing waits between two tries, and no pool, no limit and no other run is in the way.

    Args:
        dag: The Dag.
        supervisor: What the tasks talk to; None: an empty one.
        **how: As for `run_task`: `partition`, `conf`, `run_id`, `now`, ...

    Raises:
        NotImplementedError: A task is mapped, waits for a person, or has a trigger rule that is not known here.
    """
    shared = FakeSupervisor() if supervisor is None else supervisor
    results: dict[str, TaskResult] = {}
    skipped: set[str] = set()
    for task in dag.topological_sort():
        if task.is_mapped or task.trigger_rule not in _RULES:
            raise NotImplementedError(
                f"task {task.task_id!r} must not be mapped, and its trigger rule one of {sorted(_RULES)}; got "
                f"{task.trigger_rule}. The tasks before it have run. Run this Dag in a real Airflow, with `dag.test()`."
            )
        before = _ended(results[name].state for name in task.upstream_task_ids)
        instead = "skipped" if task.task_id in skipped else _RULES[task.trigger_rule](before)
        results[task.task_id] = TaskResult(state=instead) if instead else _all_tries(task, supervisor=shared, **how)
        skipped |= set(results[task.task_id].skipped)
    return results


def _ended(states: Iterable[str]) -> Counter[str]:
    """Return how many ended how; a task that could not run counts as failed, as it does in Airflow's rules."""
    return Counter("failed" if state in _UNFORTUNATE else state for state in states)


def _all_tries(task: Any, **how: Any) -> TaskResult:
    """Return how a task's last try ended."""
    try_number = 1
    while (result := run_task(task, try_number=try_number, **how)).state == "up_for_retry":
        try_number += 1
    if result.state not in ("success", "failed", "skipped"):
        raise NotImplementedError(
            f"task {task.task_id!r} must end by itself; got {result.state}. The tasks before it have run. Run it "
            "alone, with `run_task`."
        )
    return result
