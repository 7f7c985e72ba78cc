"""`limits`: how much of the workers one model may take, so that none keeps the others waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from include.spec.fields import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from include.spec.model import ModelSpec

PoolName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,249}$")]

DEFAULT_POOL = "default_pool"
"""Airflow's own; it always exists."""


class LimitsSpec(Frozen):
    """How much one model may have at once; Airflow holds it."""

    max_active_tasks: int = Field(
        default=2,
        ge=1,
        description="Tasks of one run that run at once, and of the same task over all partitions that are ingested. "
        "Waiting for a partition to land is none.",
    )
    max_active_partitions: int = Field(
        default=16,
        ge=1,
        description="Partitions that are waited for and ingested at once; the stages after it take one at a time.",
    )
    priority: int = Field(
        default=1, ge=1, le=100, description="Higher: its tasks go first when tasks of several models wait."
    )
    pool: PoolName = Field(default=DEFAULT_POOL, description="Airflow pool of all its tasks but the training.")
    training_pool: PoolName | None = Field(
        default=None,
        description="Airflow pool of its training, for example one for each kind of GPU. Default: train_local, or "
        "train_gpu when it asks for GPUs; a training takes as many slots as it has GPUs, and at least one.",
        examples=["train_a100"],
    )


def training_pool(spec: ModelSpec) -> tuple[str, int]:
    """Return the pool of a model's training, and how many of its slots one training takes."""
    num_gpus = _num_gpus(spec)
    return spec.limits.training_pool or ("train_gpu" if num_gpus else "train_local"), max(1, num_gpus)


def _num_gpus(spec: ModelSpec) -> int:
    if spec.training.runner == "local":
        return 0
    from include.training.profiles import resolve_profile

    profile = resolve_profile(spec.training)
    return profile.num_gpus * profile.num_pods


def needed_pools(specs: Iterable[ModelSpec]) -> dict[str, int]:
    """Return pool -> the fewest slots with which every task of these models can run; Airflow's own is left out."""
    needed: dict[str, int] = {}
    for spec in specs:
        for name, slots in (training_pool(spec), (spec.limits.pool, spec.limits.max_active_tasks)):
            needed[name] = max(slots, needed.get(name, 1))
    needed.pop(DEFAULT_POOL, None)
    return needed
