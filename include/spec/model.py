"""model.yaml as one frozen object."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from include.spec.features import FeaturesSpec, LabelSpec
from include.spec.fields import Frozen, Identifier
from include.spec.operation import DriftSpec, RetrainingSpec, RolloutSpec
from include.spec.source import SourceSpec
from include.spec.training import CompressionSpec, GatesSpec, TrainingSpec


class ModelSpec(Frozen):
    """One model's whole lifecycle, as its model.yaml declares it."""

    schema_version: Literal[1]
    name: Identifier
    description: str
    owner: str
    task: Literal["binary_classification"]
    source: SourceSpec
    label: LabelSpec
    features: FeaturesSpec
    training: TrainingSpec
    gates: GatesSpec = GatesSpec()
    compression: CompressionSpec = CompressionSpec()
    rollout: RolloutSpec = RolloutSpec()
    drift: DriftSpec = DriftSpec()
    retraining: RetrainingSpec = RetrainingSpec()
    slices: tuple[Identifier, ...] = Field(default=(), strict=False, description="Columns to report metrics by.")

    @model_validator(mode="after")
    def _label_is_no_feature(self) -> ModelSpec:
        if self.label.name in (*self.features.categorical, *self.features.numeric):
            raise ValueError(f"label {self.label.name!r} must not be a feature of its own model")
        return self
