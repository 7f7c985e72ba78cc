"""`training`, `gates` and `compression`: how a version is made, and what it must reach."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from include.spec.fields import Frac, Frozen, Identifier
from include.spec.tasks import LossName

RunnerName = Literal["local", "kubernetes", "torchrun", "trainjob"]


class GpuPodSpec(Frozen):
    """What this model's pods have otherwise than their profile says; what is left out is the profile's."""

    image: str | None = Field(
        default=None, description="Image with the trainer.", examples=["registry.example.org/tradewind-trainer:0.1.0"]
    )
    namespace: str | None = Field(default=None, description="Namespace of the pods.")
    num_gpus: int | None = Field(default=None, ge=0, description="GPUs of each pod.")
    cpu: str | None = Field(default=None, description="CPU request and limit, as Kubernetes writes it.")
    memory: str | None = Field(default=None, description="Memory request and limit, as Kubernetes writes it.")
    shared_memory: str | None = Field(default=None, description="Size of /dev/shm, as Kubernetes writes it.")
    service_account: str | None = Field(default=None, description="Service account.")
    env_secret: str | None = Field(default=None, description="Secret whose keys become the environment.")
    schedule_timeout_s: int | None = Field(default=None, gt=0, description="Seconds until its pods must run.")


PrecisionName = Literal["fp32", "bf16", "fp16"]


class TrainingSpec(Frozen):
    """How a version is trained."""

    runner: RunnerName = Field(
        default="local",
        description="local: a process beside the task. kubernetes: a pod. torchrun: one process a GPU, in a pod or in "
        "several. trainjob: a TrainJob of Kubeflow Trainer.",
    )
    profile: Identifier | None = Field(
        default=None,
        description="Profile of include/training/profiles.yaml, unless `runner` is local: GPUs, memory, nodes, limits. "
        "None: that file's default.",
        examples=["gpu_spot"],
    )
    pod: GpuPodSpec | None = Field(default=None, description="What this model has otherwise than its profile.")
    window_partitions: int = Field(gt=0, description="How many of the newest partitions make a training set.")
    validation_frac: Annotated[float, Field(gt=0, lt=0.5)] = Field(default=0.15, description="Newest share held out.")
    loss: LossName | None = Field(
        default=None,
        description="What is minimised and what gates, drift and retraining judge by. None: log_loss for "
        "classification, squared_error for regression, which may also have absolute_error or huber.",
    )
    huber_delta: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Error in the label's unit beyond which `huber` counts linearly; of that loss only."
    )
    seed: int = Field(default=0, description="Seed of the weights, of dropout and of the order of the rows.")
    max_epochs: int = Field(gt=0, description="Most passes over the training rows.")
    patience_epochs: int = Field(default=3, gt=0, description="Epochs without improvement before training stops.")
    batch_size: int = Field(gt=0, description="Rows of one step.")
    learning_rate: float = Field(gt=0, description="Size of a step.")
    weight_decay: float = Field(default=0, ge=0, description="Share of a weight that a step of size 1 removes.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0, description="Chance that a hidden unit is left out of a training step."
    )
    input_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0, description="Chance that an input of a row is hidden in training, as if it were missing."
    )
    average_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0, description="Each step keeps this share of the averaged weights, which are served; 0: no averaging."
    )
    hidden: tuple[int, ...] = Field(
        min_length=1, strict=False, description="Width of each hidden layer.", examples=[[64, 32]]
    )
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="What becomes of the learning rate; cosine: it falls to 0 by `max_epochs`."
    )
    warmup_steps: int = Field(default=0, ge=0, description="First steps, over which the learning rate rises from 0.")
    precision: PrecisionName = Field(
        default="fp32",
        description="Numbers that the network computes in; weights, averages and the loss stay in fp32. fp16, whose "
        "gradients are scaled, needs a GPU.",
    )
    accumulation_steps: int = Field(
        default=1, gt=0, description="Pieces in which a step's rows are computed: less memory, the same gradient."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Compute hidden layers again instead of keeping them: less memory, more time."
    )
    checkpoint_interval_s: float = Field(
        default=30, gt=0, description="Seconds between two checkpoints: the work that a lost machine costs at most."
    )
    checkpoints_kept: int = Field(
        default=2, gt=0, description="Newest checkpoints that are kept; with one, a damaged one means to start over."
    )
    timeout_s: int = Field(default=3600, gt=0, description="Seconds after which a training is stopped.")

    @model_validator(mode="after")
    def _possible(self) -> TrainingSpec:
        if self.patience_epochs > self.max_epochs:
            raise ValueError(
                f"patience_epochs must not exceed max_epochs ({self.max_epochs}); got {self.patience_epochs}"
            )
        if (self.loss == "huber") != (self.huber_delta is not None):
            raise ValueError(
                f"loss: huber needs huber_delta, and no other loss has one; got loss {self.loss}, huber_delta "
                f"{self.huber_delta}"
            )
        return self


class GatesSpec(Frozen):
    """What a trained version must reach before it may become the challenger."""

    min_loss_gain_vs_baseline: float = Field(
        default=0.0,
        description="Loss below that of the best constant (base rate, class shares, mean), in the unit of the loss.",
    )
    max_loss_increase_vs_champion: float = Field(
        default=0.0, description="Loss above the champion's on the same validation rows, in the unit of the loss."
    )
    min_validation_rows: int = Field(default=500, gt=0, description="Fewer: the gate is inconclusive.")
    on_inconclusive: Literal["stop", "continue"] = Field(
        default="stop", description="What a gate that could not measure does."
    )


class CompressionSpec(Frozen):
    """When the int8 model may replace the fp32 model."""

    method: Literal["int8_dynamic", "none"] = Field(
        default="int8_dynamic", description="int8_dynamic: 8-bit weights. none: fp32 serves."
    )
    min_agreement_frac: Frac = Field(
        default=0.99,
        description="Share of rows on which int8 and fp32 agree: the same side of 0.5, the same most likely class, or, "
        "for regression, within `agreement_tolerance`.",
    )
    agreement_tolerance: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Two predictions of a regression agree when they differ by at most this, in the label's unit.",
    )
    max_loss_increase: float = Field(
        default=0.002, ge=0, description="Loss above fp32's, in the unit of the loss. A regression must give it."
    )
    max_auc_decrease: float = Field(
        default=0.002, ge=0, description="AUC below fp32's; read by a binary_classification only."
    )
    min_speedup: float = Field(default=1.0, gt=0, description="fp32 latency / int8 latency; slower is not used.")
