"""One stage's Dags for every model folder, so that a broken spec hides no other model's Dags."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow.sdk.definitions.param import ParamsDict

from include.errors import SpecError
from include.spec import MODELS_DIR, load_spec, model_names
from include.spec.limits import DEFAULT_POOL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.sdk import DAG

    from include.spec import ModelSpec

_LOG = logging.getLogger(__name__)


def build_model_dags(build: Callable[[ModelSpec], DAG], *, stage: str, models_dir: Path = MODELS_DIR) -> dict[str, DAG]:
    """Return Dag id -> Dag for every model of which one can be made; a Dag file puts them into its `globals()`.

    The others are left out without an import error, since Airflow stops every Dag of a file that has one: what is wrong
    with a spec is told by `require_readable_specs`, in a file without Dags; a defect of `build` stands in the Dag
    processor's log.
    """
    dags: dict[str, DAG] = {}
    for name in model_names(models_dir):
        try:
            spec = load_spec(name, models_dir)
            dag = build(spec)
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


def _limited(dag: DAG, spec: ModelSpec) -> DAG:
    """Return the Dag with its model's limits, and with its form's parameters held once.

    Airflow gives each task a copy of the Dag's parameters and checks all of them several times in each parse, four
    fifths of what a thousand models cost. At run time a task gets the Dag's parameters anyway.
    """
    dag.max_active_tasks = spec.limits.max_active_tasks
    for task in dag.tasks:
        task.params = ParamsDict({name: task.params[name] for name in task.params if name not in dag.params})
        task.priority_weight = spec.limits.priority
        if task.pool == DEFAULT_POOL:
            task.pool = spec.limits.pool
    return dag
