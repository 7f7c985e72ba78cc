"""What the fields of a GPU profile are made of: names, amounts and rules of nodes, as Kubernetes' API allows them.

What it would refuse is refused when the file is read, long before a pod is made.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, Field, model_validator, with_config
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from include.spec.fields import Frozen
from include.training.scheduling import amount

_closed = with_config(extra="forbid", strict=True)
_WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


def _some(quantity: str) -> str:
    if amount(quantity) <= 0:
        raise ValueError("must be more than 0")
    return quantity


Cores = Annotated[str, Field(pattern=r"^(\d+(\.\d{1,3})?|\d+m)$"), AfterValidator(_some)]
"""Processors, as Kubernetes writes them: 4, 0.5 or 500m."""
Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(k|Ki|[MGTP]i?)?$"), AfterValidator(_some)]
"""Bytes, as Kubernetes writes them: 16Gi."""
NamespaceName = Annotated[str, Field(pattern=rf"^{_DNS_LABEL}$")]
ObjectName = Annotated[str, Field(pattern=rf"^{_DNS_LABEL}(\.{_DNS_LABEL})*$", max_length=253)]
QueueName = Annotated[ObjectName, Field(max_length=63)]
"""It stands in a label."""
LabelKey = Annotated[str, Field(pattern=rf"^({_DNS_LABEL}(\.{_DNS_LABEL})*/)?{_WORD}$")]
LabelValue = Annotated[str, Field(pattern=rf"^({_WORD})?$")]


class Toleration(Frozen):
    """A taint of nodes that the pod may be put on all the same."""

    key: LabelKey = Field(description="Key of the taint.")
    operator: Literal["Exists", "Equal"] = Field(default="Exists", description="Equal compares `value` as well.")
    value: LabelValue | None = Field(default=None, description="Value of the taint, with Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(default="NoSchedule")

    @model_validator(mode="after")
    def _compares_what_it_names(self) -> Toleration:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError(
                f"operator: Equal needs a value and Exists has none; got {self.operator} with value {self.value!r}"
            )
        return self


@_closed
class Requirement(TypedDict):
    """What a label of a node must be."""

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: NotRequired[list[LabelValue]]


def _takes_its_values(found: Requirement) -> Requirement:
    operator, values = found["operator"], found.get("values", [])
    if operator in ("Exists", "DoesNotExist"):
        fits, wanted = not values, "none"
    elif operator in ("Gt", "Lt"):
        fits, wanted = len(values) == 1 and values[0].isdecimal(), "one whole number"
    else:
        fits, wanted = bool(values), "one or more"
    if not fits:
        raise ValueError(f"{operator} needs {wanted} in values; got {values}")
    return found


@_closed
class Term(TypedDict):
    """Requirements that hold together."""

    matchExpressions: NotRequired[list[Annotated[Requirement, AfterValidator(_takes_its_values)]]]
    matchFields: NotRequired[list[Annotated[Requirement, AfterValidator(_takes_its_values)]]]


@_closed
class Terms(TypedDict):
    """Terms of which one must hold."""

    nodeSelectorTerms: Annotated[list[Term], Field(min_length=1)]


@_closed
class Preference(TypedDict):
    """A term that a node had better fulfil."""

    weight: Annotated[int, Field(ge=1, le=100)]
    preference: Term


@_closed
class NodeAffinity(TypedDict):
    """nodeAffinity, as Kubernetes writes it."""

    requiredDuringSchedulingIgnoredDuringExecution: NotRequired[Terms]
    preferredDuringSchedulingIgnoredDuringExecution: NotRequired[list[Preference]]
