"""Whether a partition's data is worth a training: a pure function of what was measured and of what happened before."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from include import partitions
from include.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from include.drift.champion import Champion
    from include.drift.monitor import Measurement, Performance
    from include.spec import ModelSpec

GAIN_CONFIDENCE_Z = 1.645
"""Standard errors that a gain must be above 0: one-sided 95 % of the normal distribution."""

_MAX_NAMED = 3


class Verdict(StrEnum):
    """What a decision says to do."""

    BOOTSTRAP = "bootstrap"
    RETRAIN = "retrain"
    KEEP = "keep"
    INCONCLUSIVE = "inconclusive"

    @property
    def is_training(self) -> bool:
        """Whether a training follows."""
        return self in (Verdict.BOOTSTRAP, Verdict.RETRAIN)


@dataclass(frozen=True, kw_only=True)
class History:
    """What happened to the model before.

    Args:
        published: Partitions whose data every source table holds.
        trained: Partitions that a decision sent to training, this one excepted.
    """

    published: Collection[str]
    trained: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A verdict and what it rests on.

    Args:
        verdict: What to do.
        reasons: Why, most important first.
        evidence: JSON-able values and the limits they were held against.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    evidence: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Finding:
    verdict: Verdict
    reasons: tuple[str, ...]


def decide(
    *, spec: ModelSpec, partition: str, measurement: Measurement, champion: Champion | None, history: History
) -> Decision:
    """Return whether the newest data is worth a training.

    Without a champion: `bootstrap` as soon as a training window is published. With one: `retrain` if there is a symptom
    (its loss rose, it is worse than a constant, inputs, predictions or labels drifted) *and* an expected gain that is
    large enough and surely above 0, and nothing forbids it (an older partition, the cool-down, the budget). A symptom
    alone never retrains: seasons move the weather all the time. What cannot be measured is `inconclusive`, which trains
    nothing.

    Args:
        spec: The model, with its limits.
        partition: The partition that was measured.
        measurement: What was measured.
        champion: The version that serves now.
        history: What is published and what was trained before.
    """
    if champion is None:
        finding = _Finding(verdict=Verdict.BOOTSTRAP, reasons=("no champion serves",))
    else:
        finding = _weigh(spec=spec, measurement=measurement, champion=champion)
    window_end = None if champion is None else champion.window_end
    blocks = find_blocks(spec=spec, partition=partition, champion_window_end=window_end, history=history)
    would = finding.verdict
    if finding.verdict.is_training and blocks:
        finding = _Finding(verdict=Verdict.KEEP, reasons=(*blocks, *finding.reasons))
    evidence = _evidence(spec=spec, partition=partition, measurement=measurement, champion=champion, history=history)
    return Decision(
        verdict=finding.verdict,
        reasons=finding.reasons,
        evidence={"verdict": str(finding.verdict), "unblocked_verdict": str(would), **evidence},
    )


def _weigh(*, spec: ModelSpec, measurement: Measurement, champion: Champion) -> _Finding:
    unknown = _unknown(spec=spec, measurement=measurement, champion=champion)
    if unknown:
        return _Finding(verdict=Verdict.INCONCLUSIVE, reasons=unknown)
    symptoms = _symptoms(spec=spec, measurement=measurement, champion=champion)
    unit = f" {task_of(spec).loss_unit}".rstrip()
    if not symptoms:
        return _without_symptoms(measurement=measurement, champion=champion)
    gain, least = measurement.gain, spec.retraining.min_expected_gain
    if gain is None:
        why = f"the expected gain could not be measured: {measurement.gain_unknown}"
        return _Finding(verdict=Verdict.INCONCLUSIVE, reasons=(why, *symptoms))
    measured = f"expected gain {gain.mean:+.4f}{unit}, standard error {gain.standard_error:.4f}"
    if gain.mean < least:
        return _Finding(verdict=Verdict.KEEP, reasons=(f"{measured}, is below {least:.4f}", *symptoms))
    if gain.mean <= GAIN_CONFIDENCE_Z * gain.standard_error:
        why = f"{measured}, is within {GAIN_CONFIDENCE_Z} standard errors of 0"
        return _Finding(verdict=Verdict.INCONCLUSIVE, reasons=(why, *symptoms))
    return _Finding(verdict=Verdict.RETRAIN, reasons=(f"{measured}, reaches {least:.4f}", *symptoms))


def _without_symptoms(*, measurement: Measurement, champion: Champion) -> _Finding:
    """Return keep, unless a symptom was not found only because it could not be looked for."""
    unmeasured: list[str] = []
    if champion.validation_loss is None:
        unmeasured.append(f"champion {champion.version} does not say its validation loss")
    if not measurement.inputs:
        unmeasured.append("no inputs were served")
    if unmeasured:
        return _Finding(verdict=Verdict.INCONCLUSIVE, reasons=tuple(unmeasured))
    return _Finding(verdict=Verdict.KEEP, reasons=("neither loss nor drift is beyond its limit",))


def _unknown(*, spec: ModelSpec, measurement: Measurement, champion: Champion) -> tuple[str, ...]:
    """Return why nothing can be said; empty if something can."""
    own = measurement.champion
    if own is None:
        return (f"champion {champion.version} made no prediction in {measurement.partition}",)
    found: list[str] = []
    if own.num_labelled < spec.drift.min_rows:
        found.append(f"champion needs at least {spec.drift.min_rows} labelled predictions; got {own.num_labelled}")
    least = spec.drift.min_label_coverage_frac
    if own.label_coverage_frac < least:
        found.append(f"share of predictions with a label must be at least {least}; got {own.label_coverage_frac:.3f}")
    if champion.window_end is None:
        found.append(f"champion {champion.version} does not say which window it was trained on")
    return tuple(found)


def _symptoms(*, spec: ModelSpec, measurement: Measurement, champion: Champion) -> tuple[str, ...]:
    own = measurement.champion
    found: list[str] = []
    if own is not None:
        found.extend(_losses(spec=spec, own=own, champion=champion))
    if measurement.prediction_psi is not None and measurement.prediction_psi > spec.drift.max_prediction_psi:
        found.append(f"prediction PSI {measurement.prediction_psi:.3f} is above {spec.drift.max_prediction_psi}")
    if measurement.label_psi is not None and measurement.label_psi > spec.drift.max_label_psi:
        found.append(f"label PSI {measurement.label_psi:.3f} is above {spec.drift.max_label_psi}")
    drifted = [item.name for item in measurement.inputs if item.exceeds(spec.drift)]
    if drifted:
        found.append(f"{len(drifted)} of {len(measurement.inputs)} inputs drifted: {', '.join(drifted)}")
    return tuple(found)


def _losses(*, spec: ModelSpec, own: Performance, champion: Champion) -> list[str]:
    found: list[str] = []
    if own.loss is None:
        return found
    task, limit = task_of(spec), spec.retraining.min_loss_increase
    measured = f"{task.loss_name} {own.loss:.4f}"
    if champion.validation_loss is not None and own.loss - champion.validation_loss >= limit:
        increase = " ".join((f"{own.loss - champion.validation_loss:.4f}", task.loss_unit)).rstrip()
        found.append(f"{measured} is {increase} above validation, limit {limit}")
    if own.baseline_loss is not None and own.loss > own.baseline_loss:
        found.append(f"{measured} is worse than the baseline's {own.baseline_loss:.4f}")
    return found


def find_blocks(
    *, spec: ModelSpec, partition: str, champion_window_end: str | None, history: History
) -> tuple[str, ...]:
    """Return what forbids a training now, whatever was measured; empty when nothing does."""
    found: list[str] = []
    newest = max(history.published, default=partition)
    if partition != newest:
        found.append(f"{partition} is not the newest published partition, {newest}")
    window = partitions.window(partition, spec.training.window_partitions)
    missing = [key for key in window if key not in history.published]
    if missing:
        named = ", ".join(missing) if len(missing) <= _MAX_NAMED else f"{missing[0]} to {missing[-1]} ({len(missing)})"
        found.append(f"a training window has {len(window)} partitions; {named} not published")
    cooldown = spec.retraining.cooldown_partitions
    if champion_window_end is not None:
        ends = partitions.shift(champion_window_end, cooldown)
        if partition <= ends:
            found.append(f"cool-down: champion's window ended with {champion_window_end}, next training after {ends}")
    spent, budget = trainings_of_year(partition, trained=history.trained), spec.retraining.max_per_year
    if len(spent) >= budget:
        year = partitions.PER_YEAR[partitions.grain_of(partition)]
        found.append(f"budget: {len(spent)} of {budget} trainings within {year} partitions are spent")
    return tuple(found)


def trainings_of_year(partition: str, *, trained: Collection[str]) -> tuple[str, ...]:
    """Return the partitions within the year that ends with one which were sent to training, this one excepted.

    >>> trainings_of_year("2013-06", trained=["2012-06", "2012-07", "2013-06"])
    ('2012-07',)
    """
    begins = partitions.shift(partition, 1 - partitions.PER_YEAR[partitions.grain_of(partition)])
    return tuple(sorted({key for key in trained if begins <= key < partition}))


def _evidence(
    *, spec: ModelSpec, partition: str, measurement: Measurement, champion: Champion | None, history: History
) -> dict[str, Any]:
    own = measurement.champion
    return {
        "partition": partition,
        "window": list(partitions.window(partition, spec.training.window_partitions)),
        "champion": None if champion is None else {"version": champion.version, "window_end": champion.window_end},
        "loss_name": task_of(spec).loss_name,
        "validation_loss": None if champion is None else champion.validation_loss,
        "performance": None if own is None else asdict(own),
        "prediction_psi": measurement.prediction_psi,
        "label_psi": measurement.label_psi,
        "input_psi": {item.name: item.psi for item in measurement.inputs},
        "drifted_inputs": [item.name for item in measurement.inputs if item.exceeds(spec.drift)],
        "expected_gain": None if measurement.gain is None else asdict(measurement.gain),
        "newest_published": max(history.published, default=None),
        "trained": sorted(history.trained),
        "limits": spec.drift.model_dump() | spec.retraining.model_dump(),
    }
