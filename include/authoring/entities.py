"""Whose recent past helps: a column whose values come again and again, and rolling averages of the label by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.authoring.columns import feature_name
from include.authoring.keys import looks_like_an_id
from include.authoring.moments import GRAIN_DAYS
from include.authoring.typed import literal, quoted

if TYPE_CHECKING:
    from include.authoring.columns import Column
    from include.authoring.labels import Label
    from include.authoring.typed import TypedRows
    from include.partitions import Grain

HISTORY_DAYS = 28
_MIN_ROWS_EACH = 8
_MAX_CLASSES = 5


@dataclass(frozen=True, kw_only=True)
class View:
    """Store features of one entity.

    Args:
        name: As model.yaml has it.
        entity: Name of the entity's column among the examples.
        column: The file's column.
        sql: The entity, in SQL over the file's columns.
        fields: Field -> SQL over `history`.
        ttl_days: After so many days a value is too old.
        why: What speaks for it.
    """

    name: str
    entity: str
    column: str
    sql: str
    fields: dict[str, str]
    ttl_days: int
    why: str


def entity_candidates(rows: TypedRows, *, label: Label) -> list[Column]:
    """Return the columns whose values come often enough that their past says something, the finest first."""
    num_rows = rows.rows.num_rows
    found = [
        column
        for column in rows.columns
        if (column.type == "string" or (column.type == "int64" and looks_like_an_id(column.name)))
        and column.name not in label.columns
        and not column.is_moment
        and not column.mixed
        and column.num_distinct > 1
        and num_rows / column.num_distinct >= _MIN_ROWS_EACH
    ]
    return sorted(found, key=lambda column: -column.num_distinct)


def make_view(rows: TypedRows, *, column: Column, name: str | None, label: Label, grain: Grain) -> View:
    """Return the view of an entity.

    Args:
        rows: The sample.
        column: The entity's column.
        name: The request feature that the column is already; None: it is none.
        label: What is averaged.
        grain: How often the averages are made: two such spans and a day later they are too old.
    """
    entity = name or feature_name(column.name)
    rows_each = rows.rows.num_rows / column.num_distinct
    return View(
        name=f"{entity}_history",
        entity=entity,
        column=column.name,
        sql=f"CAST({quoted(column.name)} AS VARCHAR)" if column.type != "string" else quoted(column.name),
        fields=_fields(entity[:24], label=label),
        ttl_days=int(2 * GRAIN_DAYS[grain]) + (1 if grain != "month" else 0),
        why=f"{column.num_distinct:,} values with {rows_each:,.0f} rows each",
    )


def _fields(entity: str, *, label: Label) -> dict[str, str]:
    stem, days = f"{entity}_{label.name[:20]}", f"{HISTORY_DAYS}d"
    if label.task == "binary_classification":
        fields = {f"{stem}_frac_{days}": "avg(CAST(label AS INTEGER))"}
    elif label.task == "regression":
        fields = {f"{stem}_mean_{days}": "avg(label)"}
    else:
        fields = {
            f"{entity}_{feature_name(name)[:20]}_frac_{days}": f"avg(CAST(label = {literal(name)} AS INTEGER))"
            for name in label.classes[:_MAX_CLASSES]
        }
    return {**fields, f"{entity}_num_{days}": "CAST(count(*) AS DOUBLE)"}
