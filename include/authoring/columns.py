"""What each column of a sample holds: its type in the spec's words, its texts for nothing, and how one can tell."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from include.errors import BadInputError
from include.spec import ColumnType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

NULL_TEXTS = ("NA", "N/A", "#N/A", "null", "NULL", "Null", "None", "none", "nan", "NaN", "NAN", "-", "?", "\\N", ".")
"""Texts that mean nothing if the rest of the column is numbers or times."""

_INT = r"^[+-]?(0|[1-9]\d{0,17})$"  # 007 is a code, not a number
_FLOAT = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_CODE = r"^[+-]?0\d+$"
_BOOL = r"^(true|false|True|False|TRUE|FALSE)$"
_ZONED = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d(:?\d\d)?)$"
_MIXED_FRAC = 0.5
_SHOWN = 3

TIME_FORMATS: Mapping[str, str] = {
    "%Y-%m-%d %H:%M:%S.%f": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{1,6}$",
    "%Y-%m-%d %H:%M:%S": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$",
    "%Y-%m-%d %H:%M": r"^\d{4}-\d\d-\d\d \d\d:\d\d$",
    "%Y-%m-%dT%H:%M:%S.%f": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}$",
    "%Y-%m-%dT%H:%M:%S": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$",
    "%Y-%m-%dT%H:%M": r"^\d{4}-\d\d-\d\dT\d\d:\d\d$",
    "%Y-%m-%d": r"^\d{4}-\d\d-\d\d$",
    "%Y/%m/%d %H:%M:%S": r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d$",
    "%Y/%m/%d": r"^\d{4}/\d\d/\d\d$",
    "%m/%d/%Y %H:%M:%S": r"^(0?\d|1[0-2])/([0-2]?\d|3[01])/\d{4} \d?\d:\d\d:\d\d$",
    "%m/%d/%Y %H:%M": r"^(0?\d|1[0-2])/([0-2]?\d|3[01])/\d{4} \d?\d:\d\d$",
    "%m/%d/%Y": r"^(0?\d|1[0-2])/([0-2]?\d|3[01])/\d{4}$",
    "%d/%m/%Y %H:%M:%S": r"^([0-2]?\d|3[01])/(0?\d|1[0-2])/\d{4} \d?\d:\d\d:\d\d$",
    "%d/%m/%Y %H:%M": r"^([0-2]?\d|3[01])/(0?\d|1[0-2])/\d{4} \d?\d:\d\d$",
    "%d/%m/%Y": r"^([0-2]?\d|3[01])/(0?\d|1[0-2])/\d{4}$",
    "%d.%m.%Y %H:%M": r"^([0-2]?\d|3[01])\.(0?\d|1[0-2])\.\d{4} \d?\d:\d\d$",
    "%d.%m.%Y": r"^([0-2]?\d|3[01])\.(0?\d|1[0-2])\.\d{4}$",
}
"""Formats of times without a zone that are recognised, the first that fits all values wins."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a sample.

    Args:
        name: As the file has it.
        type: What model.yaml declares.
        why: How one can tell.
        null_texts: Texts of this column that mean nothing.
        num_null: Rows without a value.
        num_distinct: Different values, nothing not counted.
        examples: Some of them.
        time_format: strptime's format of a text that is a time without a zone; None: it is none.
        is_ambiguous: Whether month and day of its times could be the other way round.
        mixed: What is wrong with a column that is numbers but for some texts; empty: nothing is.
    """

    name: str
    type: ColumnType
    why: str
    null_texts: tuple[str, ...] = ()
    num_null: int = 0
    num_distinct: int = 0
    examples: tuple[str, ...] = ()
    time_format: str | None = None
    is_ambiguous: bool = False
    mixed: str = ""

    @property
    def is_moment(self) -> bool:
        """Whether its values are points in time."""
        return self.type == "timestamp" or self.time_format is not None

    @property
    def is_number(self) -> bool:
        """Whether one can calculate with its values."""
        return self.type in ("int64", "float64")


@dataclass(frozen=True, kw_only=True)
class _Values:
    """The different values of a column and how often each occurs, nothing left out."""

    texts: pa.Array
    counts: pa.Array

    def fitting(self, pattern: str) -> int:
        """Return how many different values match."""
        import pyarrow.compute as pc

        return int(pc.sum(pc.match_substring_regex(self.texts, pattern)).as_py() or 0)

    def others(self, pattern: str) -> _Values:
        """Return those that do not match."""
        import pyarrow.compute as pc

        keep = pc.invert(pc.match_substring_regex(self.texts, pattern))
        return _Values(texts=self.texts.filter(keep), counts=self.counts.filter(keep))


def infer_columns(
    rows: pa.Table, *, types: Mapping[str, ColumnType], null_texts: Sequence[str], time_formats: Mapping[str, str]
) -> list[Column]:
    """Return what each column holds.

    Args:
        rows: A sample's rows, as text.
        types: Column -> type that a person has named.
        null_texts: Texts that a person says mean nothing, in every column.
        time_formats: Column -> strptime's format that a person has named.

    Raises:
        BadInputError: A person named a column that is not there, or a type that is none.
    """
    unknown = [name for name in (*types, *time_formats) if name not in rows.column_names]
    if unknown:
        raise BadInputError(
            f"types and formats must be of columns of the sample, {', '.join(rows.column_names)}; got {unknown[0]!r}. "
            "Nothing was written. Mend the name."
        )
    for name, declared in types.items():
        if declared not in get_args(ColumnType):
            raise BadInputError(
                f"--type of {name!r} must be one of {', '.join(get_args(ColumnType))}; got {declared!r}. Nothing was "
                "written. Mend it."
            )
    found = [
        _infer(
            name,
            rows,
            declared=types.get(name, "string" if name in time_formats else None),
            null_texts=tuple(null_texts),
            time_format=time_formats.get(name),
        )
        for name in rows.column_names
    ]
    everywhere = tuple(dict.fromkeys(text for column in found for text in column.null_texts))
    return [_with_null_texts(column, rows, everywhere) for column in found]


def _infer(
    name: str, rows: pa.Table, *, declared: ColumnType | None, null_texts: tuple[str, ...], time_format: str | None
) -> Column:
    values = _values(rows, name, null_texts=("", *null_texts))
    if declared is not None:
        column = Column(name=name, type=declared, why="you said so", time_format=time_format)
    elif not len(values.texts):
        column = Column(name=name, type="string", why="no value at all")
    else:
        column = _typed(name, values) or _timed(name, values) or _text(name, values)
    return replace(column, null_texts=(*null_texts, *(text for text in column.null_texts if text not in null_texts)))


def _values(rows: pa.Table, name: str, *, null_texts: Sequence[str]) -> _Values:
    import pyarrow as pa
    import pyarrow.compute as pc

    counted = pc.value_counts(rows[name].combine_chunks())
    keep = pc.invert(pc.is_in(counted.field("values"), pa.array(null_texts, pa.string())))
    return _Values(texts=counted.field("values").filter(keep), counts=counted.field("counts").filter(keep))


def _typed(name: str, values: _Values) -> Column | None:
    """Return the column if its values, but for known texts that mean nothing, are numbers, times or true and false."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pc.is_in(values.texts, pa.array(NULL_TEXTS, pa.string()))
    nulls = tuple(sorted(values.texts.filter(known).to_pylist()))
    rest = _Values(texts=values.texts.filter(pc.invert(known)), counts=values.counts.filter(pc.invert(known)))
    total = len(rest.texts)
    if not total or rest.fitting(_CODE):
        return None
    besides = f", {' and '.join(map(repr, nulls))} for none" if nulls else ""
    candidates: tuple[tuple[ColumnType, str, str], ...] = (
        ("int64", _INT, "whole numbers"),
        ("float64", _FLOAT, "numbers"),
        ("timestamp", _ZONED, "times with a zone"),
        ("bool", _BOOL, "true and false"),
    )
    for kind, pattern, what in candidates:
        if rest.fitting(pattern) == total:
            return Column(name=name, type=kind, why=f"all are {what}{besides}", null_texts=nulls)
    return None


def _timed(name: str, values: _Values) -> Column | None:
    fitting = [fmt for fmt, pattern in TIME_FORMATS.items() if values.fitting(pattern) == len(values.texts)]
    if not fitting:
        return None
    other = fitting[0].replace("%m/%d", "%d/%m")
    return Column(
        name=name,
        type="string",
        why=f"times without a zone, {fitting[0]}",
        time_format=fitting[0],
        is_ambiguous=other != fitting[0] and other in fitting,
    )


def _text(name: str, values: _Values) -> Column:
    import pyarrow.compute as pc

    column = Column(name=name, type="string", why="text")
    others = values.others(_FLOAT)
    num_rows, num_other = pc.sum(values.counts).as_py(), pc.sum(others.counts).as_py() or 0
    if values.fitting(_CODE):
        return replace(column, why="codes: some start with 0")
    if not num_other or num_other > (1 - _MIXED_FRAC) * num_rows:
        return column
    examples = ", ".join(map(repr, others.texts.slice(0, _SHOWN).to_pylist()))
    mixed = f"{num_rows - num_other:,} numbers and {num_other:,} texts such as {examples}"
    return replace(column, why=f"mixed: {mixed}", mixed=mixed)


def _with_null_texts(column: Column, rows: pa.Table, null_texts: tuple[str, ...]) -> Column:
    """Return the column with its counts; a file has one list of texts that mean nothing, so it counts for all."""
    import pyarrow.compute as pc

    values = _values(rows, column.name, null_texts=("", *null_texts))
    order = pc.array_sort_indices(values.counts, order="descending")
    examples = tuple(values.texts.take(order[:_SHOWN]).to_pylist())
    num_present = pc.sum(values.counts).as_py() or 0
    return replace(column, num_null=rows.num_rows - num_present, num_distinct=len(values.texts), examples=examples)


def null_texts_of(columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the texts that mean nothing in the whole file, the empty one first."""
    return ("", *dict.fromkeys(text for column in columns for text in column.null_texts if text))


def feature_name(column: str, *, taken: frozenset[str] = frozenset()) -> str:
    """Return a column's name as model.yaml and requests may have it, and not one that is taken.

    >>> feature_name("Passenger Class"), feature_name("2nd"), feature_name("label")
    ('passenger_class', 'c_2nd', 'label_input')
    """
    name = re.sub(r"_+", "_", re.sub(r"[^a-z0-9]+", "_", column.lower())).strip("_") or "column"
    name = (name if name[0].isalpha() else f"c_{name}")[:50]
    if name in RESERVED | taken:
        name = f"{name}_input"
    number = 2
    while name in RESERVED | taken:
        name, number = f"{name.removesuffix(f'_{number - 1}')}_{number}", number + 1
    return name


RESERVED = frozenset(
    {"example_id", "event_at", "known_at", "label", "partition", "available_at", "published_at", "request_id"}
    | {"model_version", "role", "logged_at", "probability", "probabilities", "prediction"}
)
"""Names of an example's own columns, and of a logged prediction's."""
