"""`rollout`, `drift` and `retraining`: what happens to a version that serves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from include.rollout.target import CAPABILITIES
from include.spec.fields import Frac, Frozen

Prob = Annotated[float, Field(gt=0, le=0.5)]
Margin = Annotated[float, Field(gt=0, lt=1)]


class RolloutSpec(Frozen):
    """How a challenger takes over the traffic."""

    target: Literal["local", "kserve"] = Field(
        default="local", description="Where it serves: Tradewind's own model server, or KServe on a cluster."
    )
    strategy: Literal["shadow", "canary", "both"] = Field(
        default="both",
        description="What a challenger must pass: scoring copies of the requests (shadow), answering a rising share of "
        "them (canary), or both, one after the other.",
    )
    approval: bool = Field(default=False, description="Whether a person must approve before any traffic.")
    steps_pct: tuple[float, ...] = Field(
        default=(10.0, 50.0),
        strict=False,
        min_length=1,
        description="Canary's share of the requests in per cent, rising.",
    )
    step_timeout_s: float = Field(default=900, gt=0, description="Seconds after which a stage is inconclusive.")
    poll_interval_s: float = Field(default=5, gt=0, description="Seconds between two looks at the counters.")
    false_rollback_prob: Prob = Field(
        default=0.05, description="Most probability that a version that is no worse fails, over all stages together."
    )
    missed_regression_prob: Prob = Field(
        default=0.05, description="Most probability that a version that is worse by a margin below passes."
    )
    max_error_increase_frac: Margin = Field(
        default=0.02, description="Margin of the share of requests that it fails to score, above the champion's."
    )
    max_error_frac: Margin = Field(
        default=0.1, description="Share of failed requests above which it fails whatever the champion does."
    )
    latency_quantile: float = Field(
        default=0.95, ge=0.5, le=0.999, description="Quantile of the latency that is compared."
    )
    max_latency_ratio: float = Field(default=2.0, ge=1, description="Its latency quantile / the champion's.")
    latency_floor_ms: float = Field(
        default=10, ge=0, description="Milliseconds; a latency quantile up to here is never too slow."
    )
    agreement_tolerance: float = Field(
        default=0.2,
        ge=0,
        description="Shadow and champion agree on a row when their predictions differ by at most this, in the output's "
        "unit; of several classes the largest difference of a probability. A regression must give it, in the label's "
        "unit.",
    )
    max_disagreement_frac: Frac = Field(
        default=0.2, description="Share of the rows on which a shadow may disagree with the champion."
    )
    disagreement_margin_frac: Margin = Field(
        default=0.1, description="A shadow that disagrees on this much more is a regression."
    )
    labels: Literal["used", "required", "ignored"] = Field(
        default="used",
        description="Late labels of what both versions scored: they can fail it when they come (used), it cannot pass "
        "without them (required), or neither.",
    )
    max_loss_increase: float = Field(
        default=0.01,
        gt=0,
        description="Margin of the loss on late labels, in the unit of the loss (nats for classification). A "
        "regression must give it.",
    )
    on_inconclusive: Literal["roll_back", "hold"] = Field(
        default="roll_back", description="What too little evidence in time does; hold: the traffic stays as it is."
    )

    @model_validator(mode="after")
    def _rising(self) -> RolloutSpec:
        inside = all(0 < step < 100 for step in self.steps_pct)  # noqa: PLR2004 - per cent
        if not inside or list(self.steps_pct) != sorted(set(self.steps_pct)):
            raise ValueError(f"steps_pct must rise strictly within 0 to 100, ends excluded; got {list(self.steps_pct)}")
        return self

    @model_validator(mode="after")
    def _can_be_done(self) -> RolloutSpec:
        can = CAPABILITIES[self.target]
        if self.has_shadow and not can.has_shadow:
            raise ValueError(
                f"strategy must be canary on {self.target}, which has no shadow (kserve/kserve#2978); got "
                f"{self.strategy}"
            )
        if any(round(step / can.share_step_pct, 6) % 1 for step in self.steps_pct):
            raise ValueError(
                f"steps_pct must be multiples of {can.share_step_pct:g} on {self.target}; got {list(self.steps_pct)}"
            )
        return self

    @property
    def shares_pct(self) -> tuple[float, ...]:
        """Shares of the canary's steps; none when a shadow is all."""
        return () if self.strategy == "shadow" else self.steps_pct

    @property
    def has_shadow(self) -> bool:
        """Whether a challenger scores copies first."""
        return self.strategy != "canary"

    @property
    def num_stages(self) -> int:
        """Shadow and steps of the canary."""
        return self.has_shadow + len(self.shares_pct)


class DriftSpec(Frozen):
    """What counts as drift of what was served against the champion's training data."""

    window_partitions: int = Field(
        default=1,
        gt=0,
        description="How many of the newest partitions whose labels are due are measured together; the expected gain "
        "needs at least ten days.",
    )
    max_input_psi: float = Field(default=0.2, gt=0, description="Population stability index of an input, nats.")
    max_prediction_psi: float = Field(
        default=0.2,
        gt=0,
        description="Population stability index of the predictions, nats; of several classes the largest.",
    )
    max_label_psi: float = Field(default=0.2, gt=0, description="Population stability index of the labels, nats.")
    max_missing_increase_frac: Frac = Field(default=0.1, description="Share of an input's values that went missing.")
    min_rows: int = Field(default=500, gt=0, description="Labelled predictions; fewer say nothing.")
    min_label_coverage_frac: Frac = Field(default=0.8, description="Share of predictions whose label has arrived.")


class RetrainingSpec(Frozen):
    """When drift is worth a training."""

    cooldown_partitions: int = Field(default=2, ge=0, description="Partitions after a training before the next.")
    max_per_year: int = Field(default=6, gt=0, description="Budget of trainings within a year.")
    min_loss_increase: float = Field(
        default=0.01,
        ge=0,
        description="Loss above the champion's validation that is a symptom, in the unit of the loss (nats for "
        "classification). A regression must give it.",
    )
    min_expected_gain: float = Field(
        default=0.002,
        description="Loss that a recalibration alone must win, in the unit of the loss (nats for classification). A "
        "regression must give it.",
    )
