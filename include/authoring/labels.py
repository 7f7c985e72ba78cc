"""What is to be predicted: which column, what kind of prediction that is, and how hard it is without any input."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from include.authoring.columns import feature_name
from include.authoring.typed import floats, literal, quoted
from include.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from include.authoring.columns import Column
    from include.authoring.typed import TypedRows
    from include.spec.tasks import TaskName

MAX_CLASSES = 50
_FEW = 10
_TWO = 2
_NAMES = re.compile(r"^(label|target|y|outcome|class)$")
_LIKELY = re.compile(r"label|target|outcome|churn|fraud|default|convert|cancel|surviv|class|is_|has_|price|delay")
_POSITIVE = ("true", "yes", "y", "1", "positive", "pos", "t")


@dataclass(frozen=True, kw_only=True)
class Label:
    """What the model predicts.

    Args:
        name: As model.yaml has it.
        sql: Its value, in SQL over the file's columns.
        columns: The file's columns that it is made of.
        task: What kind of prediction it is.
        why: How one can tell.
        classes: Of a multi-class label, the commonest first.
        base_rate: Of a binary label, the share of true.
        mean: Of a regression's label.
        deviation: Standard deviation of a regression's label.
        baseline_loss: Loss of the best constant: nats, or the variance.
        present_frac: Share of the rows that have it.
    """

    name: str
    sql: str
    columns: frozenset[str]
    task: TaskName
    why: str
    classes: tuple[str, ...] = ()
    base_rate: float = 0.0
    mean: float = 0.0
    deviation: float = 0.0
    baseline_loss: float
    present_frac: float


def label_candidates(rows: TypedRows) -> list[Column]:
    """Return the columns that may be the label, the likeliest first."""
    last = rows.columns[-1].name

    def rank(column: Column) -> tuple[int, bool]:
        name, is_partial = column.name.lower(), bool(column.num_null)
        if _NAMES.match(name):
            return 0, is_partial
        if _LIKELY.search(name):
            return 1, is_partial
        return (2 if column.name == last else 3), is_partial

    usable = [c for c in rows.columns if not c.is_moment and c.num_distinct > 1 and not _is_unlike(c, rows)]
    return sorted(usable, key=rank)


def is_named_like_a_label(column: Column) -> bool:
    """Return whether nobody would call anything else so."""
    return bool(_NAMES.match(column.name.lower()))


def make_label(rows: TypedRows, *, wanted: str, name: str | None, task: TaskName | None) -> Label:
    """Return the label that a person named: a column, or an expression over columns such as `delay > 15`.

    Raises:
        BadInputError: It has no values, one value only, or does not fit the task.
    """
    columns = {c.name: c for c in rows.columns}
    sql = quoted(wanted) if wanted in columns else wanted
    values = rows.values(sql)
    used = frozenset({wanted}) if wanted in columns else _used(rows, wanted)
    present = values.drop_null()
    if not len(present):
        raise BadInputError(
            f"label {wanted!r} must have values; got none in {len(values):,} rows. Nothing was written. Name another "
            "column, or have the outcomes delivered with the rows."
        )
    mixed = columns[wanted].mixed if wanted in columns else ""
    if mixed:
        raise BadInputError(
            f"label {wanted!r} must be numbers, or a few texts; got {mixed}. Nothing was written. Say which texts mean "
            "nothing, --null TEXT, or mend the sample."
        )
    found = name or feature_name(wanted if wanted in columns else "outcome")
    label = _of_task(present, name=found.removesuffix("_input") or "outcome", sql=sql, wanted=wanted, task=task)
    return replace(label, columns=used, present_frac=len(present) / len(values))


def _of_task(present: pa.ChunkedArray, *, name: str, sql: str, wanted: str, task: TaskName | None) -> Label:
    import pyarrow as pa
    import pyarrow.compute as pc

    distinct = pc.unique(present.combine_chunks()).to_pylist()
    if len(distinct) < _TWO:
        raise BadInputError(
            f"label {wanted!r} must have two values or more; got only {distinct[0]!r}. Nothing was written. Name "
            "another column, or a sample with both outcomes."
        )
    is_text = pa.types.is_string(present.type)
    if task is None:
        task = _guess_task(distinct, is_text=is_text, wanted=wanted)
    if task == "binary_classification":
        return _binary(present, name=name, sql=sql, distinct=distinct)
    if task == "multiclass_classification":
        return _multiclass(present, name=name, sql=sql, num_distinct=len(distinct))
    if is_text:
        raise BadInputError(
            f"label {wanted!r} of a regression must be numbers; got {len(distinct)} texts such as {distinct[0]!r}. "
            "Nothing was written. Leave --task out, or name another column."
        )
    return _regression(present, name=name, sql=sql, num_distinct=len(distinct))


def _guess_task(distinct: Sequence[object], *, is_text: bool, wanted: str) -> TaskName:
    if len(distinct) == _TWO:
        return "binary_classification"
    if not is_text:
        return "regression"
    if len(distinct) > MAX_CLASSES:
        raise BadInputError(
            f"label {wanted!r} must be numbers or at most {MAX_CLASSES} texts; got {len(distinct)} texts such as "
            f"{distinct[0]!r}. Nothing was written. Name another column."
        )
    return "multiclass_classification"


def _binary(present: pa.ChunkedArray, *, name: str, sql: str, distinct: Sequence[object]) -> Label:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(distinct) != _TWO:
        raise BadInputError(
            f"label {name!r} of a binary classification must have two values; got {len(distinct)}. Nothing was "
            "written. Leave --task out, or compare: --label 'amount > 100'."
        )
    if pa.types.is_boolean(present.type):
        rate, positive = float(pc.mean(present.cast(pa.float64())).as_py()), "true"
    else:
        true = _positive(distinct)
        rate = float(pc.mean(pc.equal(present, pa.scalar(true, present.type)).cast(pa.float64())).as_py())
        positive = repr(true)
        sql = f"{sql} = {literal(true) if isinstance(true, str) else true}"
    loss = float(-(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))
    return Label(
        name=name,
        sql=sql,
        columns=frozenset(),
        task="binary_classification",
        why=f"two values, {_either(distinct)}; {positive} is the positive one, {rate:.1%} of the rows",
        base_rate=rate,
        baseline_loss=loss,
        present_frac=1,
    )


def _positive(distinct: Sequence[object]) -> object:
    """Return the value that means yes, or else the greater one."""
    known = [value for value in distinct if str(value).lower() in _POSITIVE]
    return known[0] if len(known) == 1 else max(distinct, key=lambda value: (isinstance(value, str), value))


def _multiclass(present: pa.ChunkedArray, *, name: str, sql: str, num_distinct: int) -> Label:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not _TWO < num_distinct <= MAX_CLASSES:
        raise BadInputError(
            f"label {name!r} of a multi-class classification must have 3 to {MAX_CLASSES} values; got {num_distinct}. "
            "Nothing was written. Leave --task out."
        )
    if not pa.types.is_string(present.type):
        present, sql = pa.chunked_array([present.combine_chunks().cast(pa.string())]), f"CAST({sql} AS VARCHAR)"
    counted = pc.value_counts(present.combine_chunks())
    order = pc.array_sort_indices(counted.field("counts"), order="descending")
    share_K = floats(pa.chunked_array([counted.field("counts").take(order)])) / len(present)
    classes = tuple(counted.field("values").take(order).to_pylist())
    return Label(
        name=name,
        sql=sql,
        columns=frozenset(),
        task="multiclass_classification",
        why=f"{len(classes)} texts, the commonest {classes[0]!r} ({share_K[0]:.1%} of the rows)",
        classes=classes,
        baseline_loss=float(-np.sum(share_K * np.log(share_K))),
        present_frac=1,
    )


def _regression(present: pa.ChunkedArray, *, name: str, sql: str, num_distinct: int) -> Label:
    import numpy as np

    value_B = floats(present)
    few = f"; only {num_distinct} different ones, so --task multiclass_classification may fit better"
    return Label(
        name=name,
        sql=f"CAST({sql} AS DOUBLE)",
        columns=frozenset(),
        task="regression",
        why=f"numbers from {value_B.min():g} to {value_B.max():g}{few if num_distinct <= _FEW else ''}",
        mean=float(np.mean(value_B)),
        deviation=float(np.std(value_B)),
        baseline_loss=float(np.var(value_B)),
        present_frac=1,
    )


def _used(rows: TypedRows, expression: str) -> frozenset[str]:
    """Return the columns that an expression names."""
    words = set(re.findall(r"[^\W]+", expression.lower()))
    return frozenset(c.name for c in rows.columns if c.name.lower() in words or quoted(c.name) in expression)


def _is_unlike(column: Column, rows: TypedRows) -> bool:
    """Return whether a column names things rather than says something of them."""
    return column.type == "string" and column.num_distinct > min(MAX_CLASSES, 0.5 * rows.rows.num_rows)


def _either(distinct: Sequence[object]) -> str:
    return " and ".join(sorted(map(repr, distinct)))
