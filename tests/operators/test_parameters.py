"""How many parameters operators and sensors have of their own: no more than a reader can hold."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
from airflow.sdk import BaseOperator

import operators
import sensors

LIMIT = 8
LARGER = {"operators.deploy_model.DeployModelOperator": 10}
"""What has more, and may not get more still: four are its base's, and each of the others is one line of its form."""
OF_THIS_REPOSITORY = ("operators.", "sensors.")
MODULES = [
    importlib.import_module(found.name)
    for package in (operators, sensors)
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
]
CLASSES = {
    f"{kind.__module__}.{name}": kind
    for module in MODULES
    for name, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, BaseOperator) and kind.__module__ == module.__name__
}


def own_parameters(kind: type) -> set[str]:
    """Return the parameters of a class and of its bases in this repository, without `self` and `**kwargs`."""
    bases = [each for each in kind.__mro__ if each.__module__.startswith(OF_THIS_REPOSITORY)]
    told = [inspect.signature(vars(each)["__init__"]).parameters.values() for each in bases if "__init__" in vars(each)]
    return {one.name for parameters in told for one in parameters if one.kind is one.KEYWORD_ONLY}


@pytest.mark.parametrize("name", CLASSES)
def test_an_operator_has_few_parameters_of_its_own(name: str) -> None:
    assert len(own_parameters(CLASSES[name])) <= LARGER.get(name, LIMIT)


def test_all_are_looked_at() -> None:
    names = {name.rpartition(".")[2] for name in CLASSES}
    assert {"GpuTrainingPodOperator", "DistributedTrainingOperator", "CustomResourceConditionSensor"} <= names
    assert len(own_parameters(CLASSES["operators.gpu_training_pod.GpuTrainingPodOperator"])) == LIMIT
