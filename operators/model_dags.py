"""One stage's Dags for every model folder, so that a broken spec hides no other model's Dags."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow.sdk import get_parsing_context

from include.errors import SpecError
from include.spec import MODELS_DIR, load_spec, model_names
from include.spec.limits import DEFAULT_POOL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.sdk import DAG, Param

    from include.spec import ModelSpec

_LOG = logging.getLogger(__name__)
_ONLY_FOR_TASKS = ("on_failure_callback", "retry_policy")
"""Default arguments that the tasks have by now; to write them down, Airflow reads their source code again and again."""


def build_model_dags(
    build: Callable[[ModelSpec], DAG],
    *,
    stage: str,
    form: Callable[[ModelSpec], dict[str, Param]] | None = None,
    models_dir: Path = MODELS_DIR,
) -> dict[str, DAG]:
    """Return Dag id -> Dag for every model of which one can be made; a Dag file puts them into its `globals()`.

    The others are left out without an import error, since Airflow stops every Dag of a file that has one: what is wrong
    with a spec is told by `require_readable_specs`, in a file without Dags; a defect of `build` stands in the Dag
    processor's log. A task that is to run needs its own Dag only, and the others are not made.

    Args:
        build: Makes the stage's Dag of a model, without `params`.
        stage: The Dags are named `<stage>_<model>`.
        form: Makes the parameters of its Trigger button. Airflow would copy those of `DAG(params=...)` into each task
            and check them, several times in each parse: a fifth of what a thousand models cost. Tasks get them anyway.
        models_dir: Folder of the model folders.
    """
    dags: dict[str, DAG] = {}
    for name in _wanted(stage, model_names(models_dir)):
        try:
            spec = load_spec(name, models_dir)
            dag = build(spec)
            if form:
                dag.params.update(form(spec))
        except SpecError:
            continue
        except Exception:  # noqa: BLE001 - whatever it is, the other models have nothing to do with it
            _LOG.exception("%s: the Dag %s_%s cannot be made", models_dir / name, stage, name)
        else:
            dags[dag.dag_id] = _limited(dag, spec)
    return dags


def require_readable_specs(models_dir: Path = MODELS_DIR) -> None:
    """Check every model's spec, for the list of import errors.

    Raises:
        SpecError: Some cannot be read; the message holds what is wrong with each.
    """
    errors = []
    for name in model_names(models_dir):
        try:
            load_spec(name, models_dir)
        except SpecError as error:
            errors.append(str(error))
    if errors:
        raise SpecError("\n".join(errors))


def _wanted(stage: str, names: list[str]) -> list[str]:
    """Return the models whose Dags are asked for: one if a task of its Dag is to run, otherwise all."""
    dag_id = get_parsing_context().dag_id
    if dag_id is None:
        return names
    return [name for name in names if dag_id == f"{stage}_{name}"]


def _limited(dag: DAG, spec: ModelSpec) -> DAG:
    """Return the Dag with its model's limits.

    Airflow 3.3.2 counts the active tasks of each run by itself, so where there are several runs at once a task is
    limited over all of them; otherwise a model with many partitions to ingest would take every worker.
    """
    dag.max_active_tasks = spec.limits.max_active_tasks
    for task in dag.tasks:
        if dag.max_active_runs > 1:
            task.max_active_tis_per_dag = task.max_active_tis_per_dag or spec.limits.max_active_tasks
        task.priority_weight = max(task.priority_weight, spec.limits.priority)
        if task.pool == DEFAULT_POOL:
            task.pool = spec.limits.pool
    for name in _ONLY_FOR_TASKS:
        dag.default_args.pop(name, None)
    return dag
