"""model.yaml as one frozen object."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from include.spec.features import FeaturesSpec, LabelSpec
from include.spec.fields import Frozen, Identifier
from include.spec.limits import LimitsSpec
from include.spec.operation import DriftSpec, RetrainingSpec, RolloutSpec
from include.spec.progress import ProgressSpec
from include.spec.retention import RetentionSpec
from include.spec.serving import ServingSpec
from include.spec.source import SourceSpec
from include.spec.tasks import TaskName, contradictions
from include.spec.training import CompressionSpec, GatesSpec, TrainingSpec

SCHEMA_VERSION = 3


class ModelSpec(Frozen):
    """One model's whole lifecycle, as its model.yaml declares it."""

    schema_version: Literal[3] = Field(description="Version of this file's own format.")
    name: Identifier = Field(description="The model's name; equals its folder's.", examples=["flight_delays"])
    description: str = Field(description="What it predicts, in one sentence.")
    owner: str = Field(description="Who is asked about it.", examples=["ml-platform"])
    task: TaskName = Field(
        description="Kind of the label: true or false, one of several classes, or a number. It decides loss, metrics, "
        "and what an answer holds."
    )
    source: SourceSpec = Field(description="Where the rows come from, and when.")
    label: LabelSpec = Field(description="What is predicted.")
    features: FeaturesSpec = Field(description="What it is predicted from.")
    training: TrainingSpec = Field(description="How a version is trained.")
    gates: GatesSpec = Field(default=GatesSpec(), description="What a version must reach.")
    compression: CompressionSpec = Field(default=CompressionSpec(), description="When 8-bit weights may serve.")
    serving: ServingSpec = Field(default=ServingSpec(), description="How the model server runs it.")
    rollout: RolloutSpec = Field(default=RolloutSpec(), description="How a version takes over the traffic.")
    drift: DriftSpec = Field(default=DriftSpec(), description="What counts as drift.")
    retraining: RetrainingSpec = Field(default=RetrainingSpec(), description="When drift is worth a training.")
    progress: ProgressSpec = Field(default=ProgressSpec(), description="When a partition counts as stuck.")
    retention: RetentionSpec = Field(default=RetentionSpec(), description="How long things are kept.")
    limits: LimitsSpec = Field(default=LimitsSpec(), description="How much of the workers it may take.")
    slices: tuple[Identifier, ...] = Field(default=(), strict=False, description="Columns to report metrics by.")

    @model_validator(mode="after")
    def _label_is_no_feature(self) -> ModelSpec:
        if self.label.name in (*self.features.categorical, *self.features.numeric):
            raise ValueError(f"label {self.label.name!r} must not be a feature of its own model")
        return self

    @model_validator(mode="after")
    def _fits_its_task(self) -> ModelSpec:
        found = list(contradictions(self))
        if found:
            raise ValueError("; ".join(found))
        return self
