"""One stage's Dags for every model folder, so that a broken spec hides no other model's Dags."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow.sdk import DAG

from include.errors import SpecError
from include.spec import MODELS_DIR, load_spec, model_names

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

    Unreadable specs become one import error of the file, which names every field that is wrong.
    """
    dags: dict[str, DAG] = {}
    errors: list[str] = []
    for name in model_names(models_dir):
        try:
            dag = build(load_spec(name, models_dir))
        except SpecError as error:
            errors.append(str(error))
        else:
            dags[dag.dag_id] = dag
    if errors:
        dag_id = f"{stage}_broken_specs"
        dags[dag_id] = _BrokenSpecs(
            dag_id=dag_id, description="\n".join(errors), start_date=datetime(2013, 1, 1, tzinfo=UTC), schedule=None
        )
    return dags
