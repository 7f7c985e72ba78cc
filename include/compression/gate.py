"""Whether the int8 graph may serve instead of the fp32 graph: a pure function of what was measured and of the spec."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.spec import CompressionSpec
    from include.tasks import Metrics


@dataclass(frozen=True, kw_only=True)
class GraphMetrics:
    """One graph on the held-out rows.

    Args:
        metrics: Rows, `loss`, and the task's own.
        size_bytes: Of the graph.
        latency_us: Rows of a request -> median microseconds of one run.
    """

    metrics: Metrics
    size_bytes: int
    latency_us: Mapping[int, float]

    @property
    def loss(self) -> float:
        """Mean loss of the rows."""
        return float(self.metrics["loss"] or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {**self.metrics, "size_bytes": self.size_bytes, "latency_us": dict(self.latency_us)}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both graphs on the same rows, in the same process.

    Args:
        num_rows: Rows.
        fp32: The graph that was trained.
        int8: The compressed one.
        agreement_frac: Share of rows on which both come to the same, as the task means it.
        max_abs_diff: Largest difference of two predictions.
        loss_name: What the loss is called.
    """

    num_rows: int
    loss_name: str
    fp32: GraphMetrics
    int8: GraphMetrics
    agreement_frac: float
    max_abs_diff: float

    @property
    def speedup(self) -> dict[int, float]:
        """Rows of a request -> fp32 latency / int8 latency."""
        return {rows: self.fp32.latency_us[rows] / self.int8.latency_us[rows] for rows in self.fp32.latency_us}


@dataclass(frozen=True, kw_only=True)
class Compression:
    """What serves, and why.

    Args:
        serves: The graph that serves.
        reasons: What stands against int8, empty if it serves.
        comparison: What was measured; None if int8 was not tried.
    """

    serves: str
    reasons: tuple[str, ...]
    comparison: Comparison | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        found: dict[str, Any] = {"serves": self.serves, "reasons": list(self.reasons)}
        if self.comparison:
            found |= asdict(self.comparison) | {"speedup": self.comparison.speedup}
            found |= {"fp32": self.comparison.fp32.to_dict(), "int8": self.comparison.int8.to_dict()}
        return found


def choose(comparison: Comparison | None, *, spec: CompressionSpec) -> Compression:
    """Return int8 if it is as good as the spec asks and not slower for a request of one row, else fp32."""
    if comparison is None:
        return Compression(serves="fp32", reasons=("the spec's compression method is none",), comparison=None)
    reasons = tuple(reason for reason in _objections(comparison, spec) if reason)
    return Compression(serves="fp32" if reasons else "int8", reasons=reasons, comparison=comparison)


def _objections(found: Comparison, spec: CompressionSpec) -> list[str | None]:
    increase = found.int8.loss - found.fp32.loss
    speedup = found.speedup[min(found.speedup)]
    return [
        None
        if found.agreement_frac >= spec.min_agreement_frac
        else f"it agrees with fp32 on {found.agreement_frac:.4f} of the rows, {spec.min_agreement_frac} needed",
        None
        if increase <= spec.max_loss_increase
        else f"its {found.loss_name} is {increase:.4f} higher, {spec.max_loss_increase} allowed",
        _auc_objection(found, spec),
        None
        if speedup >= spec.min_speedup
        else f"it runs {speedup:.2f} times as fast as fp32, {spec.min_speedup} needed",
    ]


def _auc_objection(found: Comparison, spec: CompressionSpec) -> str | None:
    if "auc" not in found.fp32.metrics:
        return None
    fp32, int8 = found.fp32.metrics["auc"], found.int8.metrics["auc"]
    if fp32 is None or int8 is None:
        return "AUC could not be measured, the held-out rows have one outcome only"
    decrease = fp32 - int8
    if decrease <= spec.max_auc_decrease:
        return None
    return f"its AUC is {decrease:.4f} lower, {spec.max_auc_decrease} allowed"
