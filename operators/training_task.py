"""Which operator trains a model: what model.yaml says, unless Airflow's setting says otherwise for all models."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, get_args

from airflow.sdk.configuration import conf

from include.errors import SetupError
from include.spec.limits import training_pool
from include.spec.training import RunnerName
from operators.train_model import TrainModelOperator

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from include.spec import ModelSpec

_SECTION = "tradewind"
_LOCAL_MARGIN_S = 120


def training_task(spec: ModelSpec, **given: Any) -> BaseOperator:
    """Return the task `train`: the same job file and command whoever runs it.

    `[tradewind] training_runner` and `training_profile` of Airflow's configuration, that is
    AIRFLOW__TRADEWIND__TRAINING_RUNNER and _PROFILE, go before what model.yaml says. What needs Kubernetes' client is
    imported only where it is used: it takes a second.

    Args:
        spec: The model.
        **given: Further arguments of the operator, such as `snapshot` and `overrides`.
    """
    runner = conf.get(_SECTION, "training_runner", fallback="") or spec.training.runner
    pool, slots = training_pool(spec)
    common = {"task_id": "train", "model": spec.name, "pool": pool, "pool_slots": slots, **given}
    if runner == "local":
        timeout = timedelta(seconds=spec.training.timeout_s + _LOCAL_MARGIN_S)
        return TrainModelOperator(execution_timeout=timeout, **common)
    common["profile"] = conf.get(_SECTION, "training_profile", fallback="")
    if runner == "trainjob" or (runner == "torchrun" and _num_pods(spec, common["profile"]) > 1):
        from operators.distributed_training import DistributedTrainingOperator

        return DistributedTrainingOperator(kind="trainjob" if runner == "trainjob" else "job", **common)
    if runner not in get_args(RunnerName):
        raise SetupError(
            f"[{_SECTION}] training_runner must be one of {', '.join(get_args(RunnerName))}; got {runner!r}. No Dag of "
            "stage train was made. Mend Airflow's configuration."
        )
    from operators.gpu_training_pod import GpuTrainingPodOperator

    return GpuTrainingPodOperator(launcher="torchrun" if runner == "torchrun" else "python", **common)


def _num_pods(spec: ModelSpec, profile: str) -> int:
    from include.training.profiles import resolve_profile

    return resolve_profile(spec.training, name=profile).num_pods
