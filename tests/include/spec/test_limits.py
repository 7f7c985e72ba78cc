from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from include.spec import GpuPodSpec, LimitsSpec, load_spec
from include.spec.limits import needed_pools, training_pool

if TYPE_CHECKING:
    from include.spec import ModelSpec

SPEC = load_spec("flight_delays")


def spec(*, num_gpus: int | None = None, **limits: Any) -> ModelSpec:
    pod = None if num_gpus is None else GpuPodSpec(image="trainer:1", num_gpus=num_gpus)
    runner = "local" if pod is None else "kubernetes"
    training = SPEC.training.model_copy(update={"runner": runner, "pod": pod})
    return SPEC.model_copy(update={"training": training, "limits": LimitsSpec(**limits)})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("train_local", 1)),
        ({"num_gpus": 0}, ("train_local", 1)),
        ({"num_gpus": 1}, ("train_gpu", 1)),
        ({"num_gpus": 8}, ("train_gpu", 8)),
        ({"num_gpus": 8, "training_pool": "train_a100"}, ("train_a100", 8)),
        ({"training_pool": "night"}, ("night", 1)),
    ],
)
def test_a_training_takes_its_gpus_from_the_pool_of_its_kind(given: dict[str, Any], expected: tuple[str, int]) -> None:
    assert training_pool(spec(**given)) == expected


def test_a_pool_has_room_for_the_largest_of_its_tasks() -> None:
    specs = [spec(), spec(num_gpus=2), spec(num_gpus=4), spec(pool="slow", max_active_tasks=3)]
    assert needed_pools(specs) == {"train_local": 1, "train_gpu": 4, "slow": 3}
    assert needed_pools([]) == {}


@pytest.mark.parametrize("wrong", [{"max_active_tasks": 0}, {"priority": 101}, {"pool": "a pool"}, {"slots": 1}])
def test_an_impossible_limit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LimitsSpec(**wrong)
