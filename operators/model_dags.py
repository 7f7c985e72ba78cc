"""One stage's Dags for every model folder, so that a broken spec hides no other model's Dags."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow.sdk import DAG
from airflow.sdk.definitions.param import ParamsDict

from include.errors import SpecError
from include.spec import MODELS_DIR, load_spec, model_names
from include.spec.limits import DEFAULT_POOL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from include.spec import ModelSpec


class _BrokenSpecs(DAG):
    """Carries spec errors to the import-error list: Airflow bags each Dag of a file on its own and keeps the others."""

    def validate(self) -> None:
        raise SpecError(self.description)


def build_model_dags(build: Callable[[ModelSpec], DAG], *, stage: str, models_dir: Path = MODELS_DIR) -> dict[str, DAG]:
    """Return Dag id -> Dag for every model whose spec can be read; a Dag file puts them into its `globals()`.

    Unreadable specs become one import error of the file, which names every field that is wrong; so does a spec of which
    no Dag can be made.
    """
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
    if errors:
        dag_id = f"{stage}_broken_specs"
        dags[dag_id] = _BrokenSpecs(
            dag_id=dag_id, description="\n".join(errors), start_date=datetime(2013, 1, 1, tzinfo=UTC), schedule=None
        )
    return dags


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
