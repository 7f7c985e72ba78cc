"""One stage's Dags for every model folder, so that a broken spec hides no other model's Dags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk.definitions.param import ParamsDict

from include.errors import SpecError
from include.spec import MODELS_DIR, load_spec, model_names
from include.spec.limits import DEFAULT_POOL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from airflow.sdk import DAG

    from include.spec import ModelSpec


def build_model_dags(build: Callable[[ModelSpec], DAG], *, stage: str, models_dir: Path = MODELS_DIR) -> dict[str, DAG]:
    """Return Dag id -> Dag for every model of which one can be made; a Dag file puts them into its `globals()`.

    The others are left out without an error: Airflow stops every Dag of a file that has an import error. It is
    `require_readable`, in a file of its own, that tells what is wrong.
    """
    dags, _ = _try_each(build, stage=stage, models_dir=models_dir)
    return dags


def require_readable(builds: Mapping[str, Callable[[ModelSpec], DAG]], *, models_dir: Path = MODELS_DIR) -> None:
    """Raise what is wrong with the models, if anything, for the list of import errors.

    Args:
        builds: Stage -> what makes its Dag.
        models_dir: Folder of the models.

    Raises:
        SpecError: A spec cannot be read, or a stage's Dag cannot be made of it.
    """
    found = [
        error for stage, build in builds.items() for error in _try_each(build, stage=stage, models_dir=models_dir)[1]
    ]
    if found:
        raise SpecError("\n".join(dict.fromkeys(found)))


def _try_each(build: Callable[[ModelSpec], DAG], *, stage: str, models_dir: Path) -> tuple[dict[str, DAG], list[str]]:
    dags: dict[str, DAG] = {}
    errors: list[str] = []
    for name in model_names(models_dir):
        try:
            spec = load_spec(name, models_dir)
            dag = build(spec)
        except SpecError as error:
            errors.append(str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other models have nothing to do with it
            errors.append(
                f"{models_dir / name}: the Dag {stage}_{name} cannot be made: {type(error).__name__}: {error}"
            )
        else:
            dags[dag.dag_id] = _limited(dag, spec)
    return dags, errors


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
