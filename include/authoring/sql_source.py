"""A query's answer as a sample: of DuckDB, SQLite, or whatever SQLAlchemy reaches."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.authoring.sources import BATCH_ROWS, NOTHING_WRITTEN, as_text, require_file, require_names
from include.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class SqlSource:
    """The answer of a query.

    Args:
        query: One SELECT.
        database: A DuckDB or SQLite file, or an SQLAlchemy URL; None: DuckDB alone, which reads CSV and Parquet files.
        num_rows_hint: How many rows it answers.
    """

    query: str
    database: str | None
    num_rows_hint: int
    delimiter: str = ","

    @property
    def origin(self) -> str:
        """The query."""
        return " ".join(self.query.split())

    def batches(self) -> Iterator[pa.Table]:
        """Yield the rows as text."""
        for batch in _answers(self.query, database=self.database):
            yield as_text(batch, origin=self.origin)


def open_sql(query: str, *, database: str | None) -> SqlSource:
    """Return a query as a source.

    Args:
        query: One SELECT.
        database: A DuckDB or SQLite file, or an SQLAlchemy URL; None: DuckDB alone, which reads CSV and Parquet files.

    Raises:
        NotFoundError: No such file.
        BadInputError: The database does not answer the query.
    """
    query = query.strip().rstrip(";")
    if database and "://" not in database:
        require_file(Path(database))
    first = next(_answers(f"SELECT * FROM ({query}) AS q LIMIT 1", database=database), None)  # noqa: S608 - theirs
    require_names(first.column_names if first is not None else [], what="the query's answer")
    counted = next(_answers(f"SELECT count(*) AS n FROM ({query}) AS q", database=database))  # noqa: S608 - theirs
    return SqlSource(query=query, database=database, num_rows_hint=int(counted.column(0)[0].as_py()))


def _answers(query: str, *, database: str | None) -> Iterator[pa.Table]:
    """Yield a query's rows, typed by its database."""
    try:
        if database is None:
            yield from _ask_duckdb(query, path=None)
        elif "://" in database:
            yield from _ask_url(query, url=database)
        elif Path(database).read_bytes()[:15] == b"SQLite format 3":
            yield from _ask_url(query, url=f"sqlite:///{Path(database).resolve()}")
        else:
            yield from _ask_duckdb(query, path=Path(database))
    except (BadInputError, GeneratorExit):
        raise
    except Exception as error:
        said = (str(error).strip() or repr(error)).splitlines()[0]
        raise BadInputError(
            f"--sql must be a query that {_without_password(database or 'DuckDB')} answers; got {said}. "
            f"{NOTHING_WRITTEN} Mend the query, or name another --database."
        ) from error


def _ask_duckdb(query: str, *, path: Path | None) -> Iterator[pa.Table]:
    import duckdb
    import pyarrow as pa

    with closing(duckdb.connect(str(path), read_only=True) if path else duckdb.connect()) as connection:
        for batch in connection.sql(query).to_arrow_reader(BATCH_ROWS):
            yield pa.Table.from_batches([batch])


def _ask_url(query: str, *, url: str) -> Iterator[pa.Table]:
    import sqlalchemy

    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect().execution_options(stream_results=True) as connection:
            found = connection.execute(sqlalchemy.text(query))
            names = list(found.keys())
            for rows in found.partitions(BATCH_ROWS):
                yield _table_of(rows, names=names)
    finally:
        engine.dispose()


def _table_of(rows: Any, *, names: list[str]) -> pa.Table:
    """Return rows of Python values as a table; SQLite has values of several types in one column, which become text."""
    import pyarrow as pa

    columns = []
    for values in zip(*rows, strict=True):
        try:
            columns.append(pa.array(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns.append(pa.array([None if value is None else str(value) for value in values]))
    return pa.table(columns, names=names)


def _without_password(database: str) -> str:
    return re.sub(r"//[^@/]*@", "//***@", database)
