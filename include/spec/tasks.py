"""What `task` allows and asks of the other sections: a value in the label's own unit has no default that fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.spec.model import ModelSpec

TaskName = Literal["binary_classification", "multiclass_classification", "regression"]
LossName = Literal["log_loss", "squared_error", "absolute_error", "huber"]

MIN_CLASSES = 3


@dataclass(frozen=True, kw_only=True)
class TaskRules:
    """What one task allows.

    Args:
        losses: Values of `training.loss`; the first is the default.
        num_classes: Least number of `label.classes`; 0: the label has none.
        needed: `section.field` that model.yaml must set, for its unit is the label's or the loss'.
        refused: `section.field` that means nothing to it; their default is none.
    """

    losses: tuple[LossName, ...]
    num_classes: int = 0
    needed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


RULES: dict[TaskName, TaskRules] = {
    "binary_classification": TaskRules(losses=("log_loss",), refused=("compression.agreement_tolerance",)),
    "multiclass_classification": TaskRules(
        losses=("log_loss",),
        num_classes=MIN_CLASSES,
        refused=("compression.agreement_tolerance",),
    ),
    "regression": TaskRules(
        losses=("squared_error", "absolute_error", "huber"),
        needed=(
            "compression.agreement_tolerance",
            "compression.max_loss_increase",
            "rollout.agreement_tolerance",
            "rollout.max_loss_increase",
            "retraining.min_loss_increase",
            "retraining.min_expected_gain",
        ),
    ),
}


def contradictions(spec: ModelSpec) -> Iterator[str]:
    """Yield each way in which a spec does not fit its task."""
    rules = RULES[spec.task]
    loss, classes = spec.training.loss, spec.label.classes
    if loss is not None and loss not in rules.losses:
        yield f"training.loss of task {spec.task} must be {' or '.join(rules.losses)}; got {loss!r}"
    if rules.num_classes and len(classes) < rules.num_classes:
        yield (
            f"label.classes of task {spec.task} must name at least {rules.num_classes} classes; got {len(classes)} "
            "(two classes are a binary_classification, whose label is true or false)"
        )
    if classes and not rules.num_classes:
        yield f"label.classes belongs to a multiclass_classification; got {list(classes)} in a {spec.task}"
    compresses = spec.compression.method != "none"
    for path in rules.needed:
        section, field = path.split(".")
        if field not in getattr(spec, section).model_fields_set and (compresses or not path.startswith("compression.")):
            yield f"{path} must be given for task {spec.task}, in the unit of its label or loss; got none"
    for path in rules.refused:
        section, field = path.split(".")
        if getattr(getattr(spec, section), field) is not None:
            yield f"{path} means nothing to task {spec.task}; remove it"


def loss_of(spec: ModelSpec) -> LossName:
    """Return the loss that a model trains and is judged by: `training.loss`, or its task's default."""
    return spec.training.loss or RULES[spec.task].losses[0]
