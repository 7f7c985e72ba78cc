"""`progress`: when a partition that does not go on counts as stuck."""

from __future__ import annotations

from pydantic import Field

from include.spec.fields import Frozen


class ProgressSpec(Frozen):
    """How long each step may take before people are told; what a training or a canary may take is added to it."""

    landing_s: int = Field(default=86_400, gt=0, description="Seconds from a partition's end to its marker.")
    stage_s: int = Field(default=3_600, gt=0, description="Seconds from one stage to the next.")
    approval_s: int = Field(default=86_400, gt=0, description="Seconds that a person may take to approve.")
    grace_s: int = Field(default=120, gt=0, description="Seconds after which an event without a run counts as lost.")
