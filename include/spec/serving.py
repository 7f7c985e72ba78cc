"""`serving`: how the model server runs a model's versions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from include.spec.fields import Frozen

ProviderName = Literal["cpu", "cuda", "auto"]


class ServingSpec(Frozen):
    """How the model server runs it; read when a version is loaded."""

    provider: ProviderName = Field(
        default="cpu",
        description="What onnxruntime computes on. cuda: a GPU, or the version is not loaded. auto: a GPU where there "
        "is one, else the CPU.",
    )
    intra_op_threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Threads inside one inference; more than 1 helps large graphs only, and takes cores from others.",
    )
    max_batch_rows: int = Field(
        default=1024, ge=1, description="Most rows of several requests that are scored together."
    )
    max_batch_delay_ms: float = Field(
        default=0,
        ge=0,
        le=1000,
        description="Milliseconds that a request waits for others to be scored with; 0: it waits only while the server "
        "is busy.",
    )
