"""The Airflow pools that the models' tasks run in: a task whose pool does not exist would wait for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.spec import load_specs
from include.spec.limits import needed_pools

if TYPE_CHECKING:
    from include.runtime.airflow_api import AirflowApi


def ensure_pools(api: AirflowApi) -> list[str]:
    """Make the pools that are missing, return their names; the size of those that exist is a person's choice.

    A model whose spec cannot be read has no Dags, so it needs no pool.

    Raises:
        ServiceError: Airflow does not answer, or refuses.
    """
    existing: set[str] = set()
    while page := [pool["name"] for pool in api.get("pools", limit=100, offset=len(existing))["pools"]]:
        existing |= set(page)
    missing = {name: slots for name, slots in needed_pools(load_specs()[0]).items() if name not in existing}
    for name, slots in missing.items():
        body = {"name": name, "slots": slots, "include_deferred": False, "description": "Made by Tradewind's `up`."}
        api.post("pools", body)
    return sorted(missing)
