"""Limits and sizes that fit a sample, each with where it came from; they become lines of model.yaml."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.authoring.moments import GOOD_PARTITIONS, median_rows
from include.authoring.sample import MIN_ROWS
from include.spec.tasks import RULES

if TYPE_CHECKING:
    from include.authoring.draft import Draft

_MIN_WINDOW_ROWS = 2_000
_STEPS_AN_EPOCH = 40


@dataclass(frozen=True, kw_only=True)
class Number:
    """A value of model.yaml.

    Args:
        key: `section.field`.
        value: As YAML has it.
        why: The comment behind it; empty: none.
    """

    key: str
    value: str
    why: str = ""


def numbers_of(draft: Draft) -> dict[str, list[Number]]:
    """Return the fields of each section that depend on the sample, in the order of model.yaml."""
    found = [*_training(draft), *_gates(draft), *_compression(draft), *_operation(draft)]
    sections: dict[str, list[Number]] = {}
    for number in found:
        sections.setdefault(number.key.partition(".")[0], []).append(number)
    return sections


def window_of(draft: Draft) -> int:
    """Return how many partitions to train on: at least three where there are enough, and some 2,000 rows.

    Half of the partitions are left to deploy and monitor on, unless that leaves too few rows to train at all.
    """
    count = len(draft.partitions.counts)
    rows = max(1.0, median_rows(draft.partitions.counts) * draft.label.present_frac)
    least = 3 if count >= GOOD_PARTITIONS else 1
    window = min(max(least, math.ceil(_MIN_WINDOW_ROWS / rows)), max(1, count // 2))
    return min(count, max(window, math.ceil(MIN_ROWS / rows)))


def _training(draft: Draft) -> list[Number]:
    window, grain = window_of(draft), draft.partitions.grain
    rows = _labelled(draft)
    count = len(draft.partitions.counts)
    batch = min(1024, max(32, 2 ** round(math.log2(max(1, rows / _STEPS_AN_EPOCH)))))
    frac = _validation_frac(rows)
    return [
        Number(key="training.runner", value="local", why="kubernetes: in a GPU pod, see `profile`"),
        Number(key="training.window_partitions", value=str(window), why=f"{window} of {count} {grain}s: {rows:,} rows"),
        Number(key="training.validation_frac", value=f"{frac}", why=f"the newest {rows * frac:,.0f} rows"),
        Number(key="training.max_epochs", value="30", why="training stops before when it has stopped to improve"),
        Number(key="training.patience_epochs", value="5"),
        Number(key="training.batch_size", value=str(batch), why=f"about {rows / batch:,.0f} steps an epoch"),
        Number(key="training.learning_rate", value="0.003"),
        Number(key="training.weight_decay", value="0.01"),
        Number(key="training.dropout", value="0.1"),
        *_input_dropout(draft),
        Number(key="training.average_decay", value="0.95", why="steadier from seed to seed"),
        Number(key="training.hidden", value="[64, 32]"),
    ]


def _input_dropout(draft: Draft) -> list[Number]:
    if not draft.views:
        return []
    why = "store features are missing at first: the model must do without"
    return [Number(key="training.input_dropout", value="0.1", why=why)]


def _gates(draft: Draft) -> list[Number]:
    loss, unit = draft.label.baseline_loss, _unit(draft)
    rows = _labelled(draft)
    least = max(50, min(500, int(0.5 * rows * _validation_frac(rows))))
    return [
        Number(
            key="gates.min_loss_gain_vs_baseline",
            value=shown(0.01 * loss),
            why=f"1 % of the loss of the best constant, {shown(loss)} {unit} in the sample",
        ),
        Number(key="gates.max_loss_increase_vs_champion", value="0.0", why="never worse than what serves"),
        Number(key="gates.min_validation_rows", value=str(least), why="half of what a window holds out"),
    ]


def _compression(draft: Draft) -> list[Number]:
    loss = draft.label.baseline_loss
    numbers = [
        Number(key="compression.method", value="int8_dynamic", why="used only if it is as good and faster"),
        Number(key="compression.min_agreement_frac", value="0.985"),
        Number(
            key="compression.max_loss_increase", value=shown(0.005 * loss), why="0.5 % of the loss of the best constant"
        ),
    ]
    if _is_needed(draft, "compression.agreement_tolerance"):
        value = shown(0.05 * draft.label.deviation)
        why = f"5 % of the label's standard deviation, {shown(draft.label.deviation)}"
        numbers.append(Number(key="compression.agreement_tolerance", value=value, why=why))
    return numbers


def _operation(draft: Draft) -> list[Number]:
    loss, rows = draft.label.baseline_loss, median_rows(draft.partitions.counts)
    present, grain = draft.label.present_frac, draft.partitions.grain
    window = window_of(draft)
    own = []
    if _is_needed(draft, "rollout.agreement_tolerance"):
        why = f"half of the label's standard deviation, {shown(draft.label.deviation)}"
        own = [
            Number(key="rollout.agreement_tolerance", value=shown(0.5 * draft.label.deviation), why=why),
            Number(
                key="rollout.max_loss_increase", value=shown(0.03 * loss), why="3 % of the loss of the best constant"
            ),
        ]
    return [
        Number(key="rollout.steps_pct", value="[10, 50]", why="the canary's share of the requests"),
        *own,
        Number(
            key="drift.min_rows",
            value=str(max(50, min(500, int(0.5 * rows * present)))),
            why=f"a {grain} has about {rows:,}",
        ),
        Number(
            key="drift.min_label_coverage_frac",
            value=f"{math.floor(90 * present) / 100:g}",
            why=f"{present:.1%} of the sample have a label",
        ),
        Number(
            key="retraining.cooldown_partitions",
            value=str(max(1, window - 1)),
            why="a new window shares little with the champion's",
        ),
        Number(key="retraining.max_per_year", value="12"),
        Number(
            key="retraining.min_loss_increase", value=shown(0.03 * loss), why="3 % of the loss of the best constant"
        ),
        Number(
            key="retraining.min_expected_gain", value=shown(0.01 * loss), why="1 % of the loss of the best constant"
        ),
    ]


def _is_needed(draft: Draft, key: str) -> bool:
    return key in RULES[draft.label.task].needed


def _labelled(draft: Draft) -> int:
    """Return the labelled rows of a training window."""
    return int(window_of(draft) * median_rows(draft.partitions.counts) * draft.label.present_frac)


def _validation_frac(rows: int) -> float:
    return 0.15 if rows >= _MIN_WINDOW_ROWS else 0.25


def _unit(draft: Draft) -> str:
    return "nats" if RULES[draft.label.task].losses[0] == "log_loss" else f"(the variance of {draft.label.name})"


def shown(value: float) -> str:
    """Return a number with two digits, as YAML reads it as a float.

    >>> shown(0.00693), shown(1234.5), shown(0)
    ('0.0069', '1200.0', '0.0')
    """
    if not value:
        return "0.0"
    rounded = round(value, 1 - math.floor(math.log10(abs(value))))
    text = f"{rounded:.10f}".rstrip("0")
    return f"{text}0" if text.endswith(".") else text
