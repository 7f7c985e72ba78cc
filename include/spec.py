"""model.yaml as frozen objects: everything Tradewind may assume about a model is declared here.

Parsing a thousand of these must stay cheap: this module imports pydantic and yaml, reads one file, does nothing else.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from include.errors import NotFoundError, SpecError
from include.spec_errors import explain, nearest

MODELS_DIR = Path(__file__).parent / "models"

ColumnType = Literal["int64", "float64", "string", "timestamp", "bool"]
Kind = Literal["categorical", "numeric"]
Frac = Annotated[float, Field(ge=0, le=1)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
PartitionKey = Annotated[str, Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TableSpec(_Frozen):
    """One file of a landed partition and the Delta table that it becomes."""

    file: str = Field(description="File name inside the partition's landing folder; CSV, optionally .gz.")
    null_values: tuple[str, ...] = Field(default=("",), strict=False, description="Texts that mean: no value.")
    primary_key: tuple[str, ...] = Field(min_length=1, strict=False, description="Columns that name a row.")
    columns: dict[str, ColumnType] = Field(min_length=1, description="Every column of the file, with its type.")
    partition_columns: tuple[str, ...] = Field(
        default=(), max_length=2, strict=False, description="Columns of a row's year and month; none: not checked."
    )

    @model_validator(mode="after")
    def _keys_exist(self) -> TableSpec:
        for key, names in (("primary_key", self.primary_key), ("partition_columns", self.partition_columns)):
            for name in names:
                if name not in self.columns:
                    raise ValueError(f"{key} names {name!r}, which is no column; {nearest(name, list(self.columns))}")
        if [self.columns[name] for name in self.partition_columns] not in ([], ["int64", "int64"]):
            raise ValueError(
                f"partition_columns must name the int64 columns of the year and of the month; got "
                f"{list(self.partition_columns)}"
            )
        return self


class SourceSpec(_Frozen):
    """Where the model's rows come from and when."""

    cron: str = Field(default="0 0 1 * *", description="When a partition is complete, in UTC.")
    timezone: str = Field(description="Zone in which a partition starts and ends, for example America/New_York.")
    first_partition: PartitionKey
    last_partition: PartitionKey | None = Field(default=None, description="Last partition, when the source ends.")
    clock: Literal["wall", "replay"] = Field(
        default="wall",
        description="wall: a materialization is available once published. replay: history is run again, and a "
        "materialization is available `availability_delay_s` after its partition ended.",
    )
    availability_delay_s: int = Field(default=0, ge=0, description="Seconds from a partition's end to its features.")
    marker: str = Field(default="_SUCCESS", description="File that is written last by whoever lands a partition.")
    poke_interval_s: float = Field(default=60, gt=0)
    wait_timeout_s: int = Field(default=7 * 86400, gt=0, description="Seconds to wait for a partition's marker.")
    tables: dict[Identifier, TableSpec] = Field(min_length=1)


class LabelSpec(_Frozen):
    """What the model predicts."""

    name: Identifier
    description: str


class FeatureSpec(_Frozen):
    """One input of the model."""

    name: Identifier
    kind: Kind
    nullable: bool = Field(default=False, description="Whether a missing value is an input, not an error.")


class StoreViewSpec(_Frozen):
    """Features of one entity, read from the online store."""

    entity: Identifier = Field(description="Column that names the entity; also an input of the request.")
    ttl_days: int = Field(gt=0, description="Days after which a value is too old to serve; it is then missing.")
    fields: tuple[Identifier, ...] = Field(min_length=1, strict=False, description="Numeric features of the view.")


class FeaturesSpec(_Frozen):
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


class GpuPodSpec(_Frozen):
    """The pod that trains when `runner` is kubernetes."""

    image: str
    namespace: str = "default"
    num_gpus: int = Field(default=1, ge=0)
    cpu: str = "4"
    memory: str = "16Gi"
    shared_memory: str = "8Gi"
    service_account: str | None = None
    env_secret: str | None = Field(default=None, description="Secret whose keys become the pod's environment.")
    schedule_timeout_s: int = Field(default=1800, gt=0, description="GPU nodes take minutes to be added.")


class TrainingSpec(_Frozen):
    """How a version is trained."""

    runner: Literal["local", "kubernetes"] = "local"
    pod: GpuPodSpec | None = None
    window_partitions: int = Field(gt=0, description="How many of the newest partitions make a training set.")
    validation_frac: Annotated[float, Field(gt=0, lt=0.5)] = Field(default=0.15, description="Newest share held out.")
    seed: int = 0
    max_epochs: int = Field(gt=0)
    patience_epochs: int = Field(default=3, gt=0, description="Epochs without improvement before training stops.")
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0, ge=0)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0
    input_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0, description="Chance that an input of a row is hidden in training, as if it were missing."
    )
    average_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0, description="Each step keeps this share of the averaged weights, which are served; 0: no averaging."
    )
    hidden: tuple[int, ...] = Field(min_length=1, strict=False, description="Width of each hidden layer.")
    timeout_s: int = Field(default=3600, gt=0)

    @model_validator(mode="after")
    def _pod_for_kubernetes(self) -> TrainingSpec:
        if self.runner == "kubernetes" and self.pod is None:
            raise ValueError("runner: kubernetes needs `pod` (at least its image); got none")
        if self.patience_epochs > self.max_epochs:
            raise ValueError(
                f"patience_epochs must not exceed max_epochs ({self.max_epochs}); got {self.patience_epochs}"
            )
        return self


class GatesSpec(_Frozen):
    """What a trained version must reach before it may become the challenger."""

    min_log_loss_gain_vs_base_rate: float = Field(default=0.0, description="Nats below the constant base rate.")
    max_log_loss_increase_vs_champion: float = Field(default=0.0, description="Nats on the same validation rows.")
    min_validation_rows: int = Field(default=500, gt=0, description="Fewer: the gate is inconclusive.")
    on_inconclusive: Literal["stop", "continue"] = "stop"


class CompressionSpec(_Frozen):
    """When the int8 model may replace the fp32 model."""

    method: Literal["int8_dynamic", "none"] = "int8_dynamic"
    min_agreement_frac: Frac = Field(default=0.99, description="Same decision at 0.5, int8 against fp32.")
    max_log_loss_increase: float = Field(default=0.002, ge=0, description="Nats.")
    max_auc_decrease: float = Field(default=0.002, ge=0)
    min_speedup: float = Field(default=1.0, gt=0, description="fp32 latency / int8 latency; slower is not used.")


class RolloutSpec(_Frozen):
    """How a challenger takes over the traffic."""

    approval: bool = Field(default=False, description="Whether a person must approve before any traffic.")
    shadow_requests: int = Field(default=50, ge=0, description="Mirrored requests before the canary; 0: no shadow.")
    steps_pct: tuple[float, ...] = Field(default=(10.0, 50.0), strict=False, description="Canary's share, rising.")
    min_requests_per_step: int = Field(default=50, gt=0, description="Canary requests needed for a verdict.")
    step_timeout_s: float = Field(default=900, gt=0)
    poll_interval_s: float = Field(default=5, gt=0)
    max_error_frac: Frac = 0.01
    max_latency_ratio: float = Field(default=2.0, gt=0, description="Canary p95 / champion p95.")
    latency_floor_ms: float = Field(default=10, ge=0, description="Canary p95 up to here is never too slow.")
    max_mean_score_shift: Frac = Field(default=0.2, description="Absolute difference of mean scores.")
    on_inconclusive: Literal["roll_back", "hold"] = "roll_back"

    @model_validator(mode="after")
    def _rising(self) -> RolloutSpec:
        inside = all(0 < step < 100 for step in self.steps_pct)  # noqa: PLR2004 - per cent
        if not inside or list(self.steps_pct) != sorted(set(self.steps_pct)):
            raise ValueError(f"steps_pct must rise strictly within 0 to 100, ends excluded; got {list(self.steps_pct)}")
        return self


class DriftSpec(_Frozen):
    """What counts as drift of one partition against the champion's training data."""

    max_input_psi: float = Field(default=0.2, gt=0, description="Population stability index of a feature, nats.")
    max_prediction_psi: float = Field(default=0.2, gt=0)
    max_missing_increase_frac: Frac = Field(default=0.1, description="Share of an input's values that went missing.")
    min_rows: int = Field(default=500, gt=0)
    min_label_coverage_frac: Frac = Field(default=0.8, description="Share of predictions whose label has arrived.")


class RetrainingSpec(_Frozen):
    """When drift is worth a training."""

    cooldown_partitions: int = Field(default=2, ge=0, description="Partitions after a training before the next.")
    max_per_year: int = Field(default=6, gt=0, description="Budget of trainings.")
    min_log_loss_increase: float = Field(default=0.01, ge=0, description="Nats above the champion's validation.")
    min_expected_gain: float = Field(default=0.002, description="Nats that a recalibration alone would win.")


class ModelSpec(_Frozen):
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


def model_names(models_dir: Path = MODELS_DIR) -> list[str]:
    """Return the names of all folders that hold a model.yaml, sorted."""
    return sorted(path.parent.name for path in models_dir.glob("*/model.yaml"))


def load_spec(name: str, models_dir: Path = MODELS_DIR) -> ModelSpec:
    """Read and check one model's model.yaml.

    Raises:
        NotFoundError: No such model folder.
        SpecError: The file is not YAML, or a field is unknown, missing, of another type, or impossible.
    """
    path = models_dir / name / "model.yaml"
    if not path.is_file():
        raise NotFoundError(f"model {name!r} has no {path}; {nearest(name, model_names(models_dir))}")
    return _load(path, path.stat().st_mtime_ns)


@cache
def _load(path: Path, _mtime_ns: int) -> ModelSpec:
    return parse_spec(path.read_text(encoding="utf-8"), path=path)


def parse_spec(text: str, *, path: Path) -> ModelSpec:
    """Return the spec that the text of a model.yaml declares; `path` names it in errors and must match its `name`.

    Raises:
        SpecError: As for `load_spec`.
    """
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{path} must be YAML; got: {error}. Nothing was scheduled. Mend the syntax.") from error
    try:
        spec = ModelSpec.model_validate(raw)
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in explain(error, model=ModelSpec))
        raise SpecError(f"{path} cannot be used; only this model's Dags are affected:\n{lines}") from error
    if spec.name != path.parent.name:
        raise SpecError(f"{path}: name must equal its folder, {path.parent.name!r}; got {spec.name!r}.")
    return spec
