"""The Airflow pools that the models' tasks run in: a task whose pool does not exist would wait for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.errors import SpecError
from include.spec import load_spec, model_names
from include.spec.limits import needed_pools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.runtime.airflow_api import AirflowApi
    from include.spec import ModelSpec


def ensure_pools(api: AirflowApi) -> list[str]:
    """Make the pools that are missing, return their names; the size of those that exist is a person's choice.

    Raises:
        ServiceError: Airflow does not answer, or refuses.
    """
    existing: set[str] = set()
    while page := [pool["name"] for pool in api.get("pools", limit=100, offset=len(existing))["pools"]]:
        existing |= set(page)
    missing = {name: slots for name, slots in needed_pools(_readable_specs()).items() if name not in existing}
    for name, slots in missing.items():
        body = {"name": name, "slots": slots, "include_deferred": False, "description": "Made by Tradewind's `up`."}
        api.post("pools", body)
    return sorted(missing)


def _readable_specs() -> Iterator[ModelSpec]:
    """Yield the specs of all models; a broken one has no Dags, so it needs no pool."""
    for name in model_names():
        try:
            yield load_spec(name)
        except SpecError:
            continue
