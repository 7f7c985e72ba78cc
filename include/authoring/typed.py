"""A sample's rows as ingest will type them, and questions to them in the SQL that the model's features.py will hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from include.authoring.columns import null_texts_of
from include.authoring.sources import to_csv
from include.errors import BadInputError
from include.features.joins import connect
from include.lake.csv_reader import read_csv
from include.spec import TableSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa

    from include.authoring.columns import Column

TABLE = "sample"


@dataclass(frozen=True, kw_only=True)
class TypedRows:
    """Rows of a sample with the types that model.yaml will declare.

    Args:
        rows: The rows.
        columns: What is known of each column.
    """

    rows: pa.Table
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        """Return a column by its name in the file.

        Raises:
            BadInputError: There is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise BadInputError(
            f"column {name!r} must be one of the sample's, {', '.join(c.name for c in self.columns)}. Nothing was "
            "written. Mend the name."
        )

    def ask(self, sql: str) -> pa.Table:
        """Return the answer to a query over the table `sample`.

        Raises:
            BadInputError: It is no SQL over these columns.
        """
        import duckdb

        with connect() as connection:
            connection.register(TABLE, self.rows)
            try:
                return connection.sql(sql).to_arrow_table()
            except duckdb.Error as error:
                said = " ".join(str(error).split())
                raise BadInputError(
                    f"the expression must be SQL over the sample's columns; got {said}. Nothing was written. Mend it."
                ) from error

    def values(self, expression: str) -> pa.ChunkedArray:
        """Return an expression's value of each row."""
        return self.ask(f"SELECT ({expression}) AS value FROM {TABLE}")["value"]  # noqa: S608 - the author's own


def type_rows(rows: pa.Table, *, columns: Sequence[Column], origin: str) -> TypedRows:
    """Return rows as ingest will read them, by having it read them.

    Raises:
        SchemaError: They are not of the types that a person named.
    """
    table = TableSpec(
        file=origin,
        null_values=null_texts_of(columns),
        primary_key=(columns[0].name,),
        columns={column.name: column.type for column in columns},
    )
    return TypedRows(rows=read_csv(to_csv(rows), file=origin, table=table), columns=tuple(columns))


def floats(values: pa.ChunkedArray) -> np.ndarray:
    """Return a column as float64, NaN where nothing is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.fill_null(values.cast(pa.float64()), float("nan")).combine_chunks().to_numpy(zero_copy_only=False)


def codes(values: pa.ChunkedArray) -> np.ndarray:
    """Return a number for each different value of a column, -1 where nothing is."""
    import pyarrow.compute as pc

    found = pc.dictionary_encode(values.combine_chunks())
    return pc.fill_null(found.indices, -1).to_numpy(zero_copy_only=False)


def quoted(name: str) -> str:
    """Return a name as SQL writes it.

    >>> print(quoted('say "hi" twice'))
    "say ""hi"" twice"
    """
    return '"' + name.replace('"', '""') + '"'


def alias(name: str) -> str:
    """Return a feature's name as SQL writes it: quoted only where it is a word of SQL's own.

    >>> alias("fee"), alias("order")
    ('fee', '"order"')
    """
    return quoted(name) if name in _reserved() else name


@cache
def _reserved() -> frozenset[str]:
    with connect() as connection:
        found = connection.sql("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category != 'unreserved'")
        return frozenset(name for (name,) in found.fetchall())


def literal(text: str) -> str:
    """Return a text as SQL writes it.

    >>> literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"
