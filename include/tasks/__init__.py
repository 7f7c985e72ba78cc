"""All that differs between a yes or no, one of several classes, and a number; nothing else asks for a model's task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.spec.tasks import loss_of
from include.tasks.binary import BinaryClassification
from include.tasks.multiclass import MulticlassClassification
from include.tasks.regression import Regression
from include.tasks.task import Head, Metrics, Task

if TYPE_CHECKING:
    from include.spec import ModelSpec

__all__ = ["Head", "Metrics", "Task", "task_of"]


def task_of(spec: ModelSpec) -> Task:
    """Return what a model's task says about its labels, outputs, loss and metrics."""
    if spec.task == "regression":
        return Regression(loss=loss_of(spec), huber_delta=spec.training.huber_delta or 0.0)
    if spec.task == "multiclass_classification":
        return MulticlassClassification(classes=spec.label.classes)
    return BinaryClassification()
