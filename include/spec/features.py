"""`label` and `features`: what a model predicts, and from what."""

from __future__ import annotations

from pydantic import Field, model_validator

from include.spec.fields import Frozen, Identifier, Kind


class LabelSpec(Frozen):
    """What the model predicts."""

    name: Identifier
    description: str


class FeatureSpec(Frozen):
    """One input of the model."""

    name: Identifier
    kind: Kind
    nullable: bool = Field(default=False, description="Whether a missing value is an input, not an error.")


class StoreViewSpec(Frozen):
    """Features of one entity, read from the online store."""

    entity: Identifier = Field(description="Column that names the entity; also an input of the request.")
    ttl_days: int = Field(gt=0, description="Days after which a value is too old to serve; it is then missing.")
    fields: tuple[Identifier, ...] = Field(min_length=1, strict=False, description="Numeric features of the view.")


class FeaturesSpec(Frozen):
    """The model's inputs by source: the caller sends `request`, the online store answers `store`."""

    request: tuple[FeatureSpec, ...] = Field(min_length=1, strict=False)
    store: dict[Identifier, StoreViewSpec] = Field(default_factory=dict)
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
