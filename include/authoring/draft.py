"""Everything that a new model's files will say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.authoring.columns import null_texts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.authoring.columns import Column
    from include.authoring.entities import View
    from include.authoring.inputs import Inputs
    from include.authoring.keys import Key
    from include.authoring.labels import Label
    from include.authoring.moments import Partitions
    from include.authoring.sample import Sample
    from include.authoring.typed import TypedRows
    from include.partitions import Grain
    from include.spec import ColumnType
    from include.spec.tasks import TaskName


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a person has said by options; None and empty: find out.

    Args:
        name: Of the model.
        owner: Who answers for it.
        description: What it answers.
        label: Column, or SQL over the columns.
        label_name: What the label is called, if it is SQL.
        task: Kind of prediction.
        time: Column of the event's time.
        timezone: Zone of times without one, and in which partitions begin and end.
        grain: Length of a partition.
        key: Columns that name a row.
        known_at: Column of the time when the outcome was known; `none`: at once.
        entities: Columns whose past is averaged; `none` alone: nobody's.
        keep: Inputs, whatever speaks against them.
        leave_out: Columns that are no inputs.
        types: Column -> type.
        time_formats: Column -> strptime's format.
        null_texts: Texts that mean nothing.
    """

    name: str
    owner: str
    description: str | None = None
    label: str | None = None
    label_name: str | None = None
    task: TaskName | None = None
    time: str | None = None
    timezone: str | None = None
    grain: Grain | None = None
    key: tuple[str, ...] = ()
    known_at: str | None = None
    entities: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    types: Mapping[str, ColumnType]
    time_formats: Mapping[str, str]
    null_texts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A model that is decided but not written.

    Args:
        name: Of the model, its folder, its table.
        owner: Who answers for it.
        description: What it answers.
        sample: What it was inferred from.
        rows: The sample's rows, typed.
        event: The column of the event's time.
        known_at: The column of the time when the outcome was known; None: at once.
        timezone: Zone of times without one, and in which partitions begin and end.
        partitions: How the rows fall into them.
        is_history: Whether nothing comes after the sample's last partition.
        partition_columns: Columns of a row's year and month; none: there are none that agree with its time.
        key: Columns that name a row.
        label: What is predicted.
        inputs: From what.
        views: Whose past is averaged.
    """

    name: str
    owner: str
    description: str
    sample: Sample
    rows: TypedRows
    event: Column
    known_at: Column | None
    timezone: str
    partitions: Partitions
    is_history: bool
    partition_columns: tuple[str, ...]
    key: Key
    label: Label
    inputs: Inputs
    views: tuple[View, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Every column of the file."""
        return self.rows.columns

    @property
    def null_texts(self) -> tuple[str, ...]:
        """Texts that mean nothing."""
        return null_texts_of(self.columns)

    @property
    def file(self) -> str:
        """Name of a landed file."""
        return f"{self.name}.csv"
