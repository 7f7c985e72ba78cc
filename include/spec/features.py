"""`label` and `features`: what a model predicts, and from what."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from include.spec.fields import Frozen, Identifier, Kind

ClassName = Annotated[str, Field(min_length=1, max_length=64)]


class LabelSpec(Frozen):
    """What the model predicts; EXAMPLES_SQL returns it as the column `label`."""

    name: Identifier = Field(description="What the label is called on cards and in reports.", examples=["is_late"])
    description: str = Field(
        description="What it means, and which examples never get one.",
        examples=["Arrived more than 15 minutes after schedule. Cancelled flights have no label."],
    )
    classes: tuple[ClassName, ...] = Field(
        default=(),
        strict=False,
        description="Every value that the label may have, at least 3, in the order of the answered probabilities; "
        "of a multiclass_classification only.",
        examples=[["low", "medium", "high"]],
    )

    @model_validator(mode="after")
    def _unique(self) -> LabelSpec:
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            raise ValueError(f"classes must be unique; got {', '.join(twice)} more than once")
        return self


class FeatureSpec(Frozen):
    """One input of the model."""

    name: Identifier = Field(description="Its column in EXAMPLES_SQL and in requests.", examples=["carrier"])
    kind: Kind = Field(description="categorical: a text, one of what training saw. numeric: a number.")
    nullable: bool = Field(default=False, description="Whether a missing value is an input, not an error.")


class StoreViewSpec(Frozen):
    """Features of one entity, read from the online store."""

    entity: Identifier = Field(
        description="Column that names the entity; also an input of the request.", examples=["tailnum"]
    )
    ttl_days: int = Field(gt=0, description="Days after which a value is too old to serve; it is then missing.")
    fields: tuple[Identifier, ...] = Field(min_length=1, strict=False, description="Numeric features of the view.")
    defaults: dict[Identifier, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="Field -> its value for an entity that was never seen, and wherever it is missing or too old, in "
        "training as in serving; without one it is missing.",
    )

    @model_validator(mode="after")
    def _defaults_of_fields(self) -> StoreViewSpec:
        if others := sorted(self.defaults.keys() - set(self.fields)):
            raise ValueError(f"defaults must be of fields ({', '.join(self.fields)}); got {', '.join(others)}")
        return self


class FeaturesSpec(Frozen):
    """The model's inputs by source: the caller sends `request`, the online store answers `store`."""

    request: tuple[FeatureSpec, ...] = Field(
        min_length=1, strict=False, description="Inputs that the caller knows and sends."
    )
    store: dict[Identifier, StoreViewSpec] = Field(
        default_factory=dict, description="Views of the online store by name; none: every input comes with the request."
    )
    parity_samples: int = Field(default=200, gt=0, description="Entities compared between offline and online store.")

    @model_validator(mode="after")
    def _unique(self) -> FeaturesSpec:
        names = [f.name for f in self.request] + [n for v in self.store.values() for n in v.fields]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"feature names must be unique; got {', '.join(twice)} more than once")
        return self

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the categorical inputs, in the model's order."""
        return tuple(f.name for f in self.request if f.kind == "categorical")

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names of the numeric inputs, request first, then store, in the model's order."""
        return tuple(f.name for f in self.request if f.kind == "numeric") + self.store_fields

    @property
    def store_fields(self) -> tuple[str, ...]:
        """Names of the inputs that come from the online store."""
        return tuple(n for v in self.store.values() for n in v.fields)

    @property
    def entities(self) -> tuple[str, ...]:
        """Entity columns of the store views, each once, in order."""
        return tuple(dict.fromkeys(v.entity for v in self.store.values()))
