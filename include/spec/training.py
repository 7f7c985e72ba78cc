"""`training`, `gates` and `compression`: how a version is made, and what it must reach."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from include.spec.fields import Frac, Frozen


class GpuPodSpec(Frozen):
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


class TrainingSpec(Frozen):
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


class GatesSpec(Frozen):
    """What a trained version must reach before it may become the challenger."""

    min_log_loss_gain_vs_base_rate: float = Field(default=0.0, description="Nats below the constant base rate.")
    max_log_loss_increase_vs_champion: float = Field(default=0.0, description="Nats on the same validation rows.")
    min_validation_rows: int = Field(default=500, gt=0, description="Fewer: the gate is inconclusive.")
    on_inconclusive: Literal["stop", "continue"] = "stop"


class CompressionSpec(Frozen):
    """When the int8 model may replace the fp32 model."""

    method: Literal["int8_dynamic", "none"] = "int8_dynamic"
    min_agreement_frac: Frac = Field(default=0.99, description="Same decision at 0.5, int8 against fp32.")
    max_log_loss_increase: float = Field(default=0.002, ge=0, description="Nats.")
    max_auc_decrease: float = Field(default=0.002, ge=0)
    min_speedup: float = Field(default=1.0, gt=0, description="fp32 latency / int8 latency; slower is not used.")
