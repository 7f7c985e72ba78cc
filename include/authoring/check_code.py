"""features.py, expectations.py and network.py held against model.yaml, without any row."""

from __future__ import annotations

import ast
import importlib
import re
from typing import TYPE_CHECKING, Any

from include.authoring.generated_rows import typed_rows
from include.authoring.problems import EXPECTATIONS, FEATURES, NETWORK, Problem, line_with, problem_of
from include.features.definitions import load_definitions
from include.features.examples import example_schema
from include.features.joins import connect
from include.lake.tables import PARTITION_COLUMN
from include.spec.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import duckdb
    import pyarrow as pa

    from include.spec import ModelSpec

_SHOWN_CHARACTERS = 300


def check_features(spec: ModelSpec, *, folder: Path) -> list[Problem]:
    """Return what is wrong with the feature SQL, found by running it over tables without rows."""
    try:
        definitions = load_definitions(spec)
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
        return [problem_of(error, folder=folder, file=FEATURES)]
    source = (folder / FEATURES).read_text(encoding="utf-8")
    path = str(folder / FEATURES)
    schema = example_schema(spec)
    wanted = {"EXAMPLES_SQL": (definitions.examples_sql, schema.names)}
    wanted |= {
        f"VIEWS[{view!r}]": (sql, [spec.features.store[view].entity, *spec.features.store[view].fields])
        for view, sql in definitions.views_sql.items()
    }
    tables = {**typed_rows(spec, num_rows=0), "history": schema.empty_table()}
    found = []
    for name, (sql, columns) in wanted.items():
        found += [
            Problem(file=path, line=line, text=f"{name}: {text}")
            for line, text in _faults(sql, columns=columns, tables=tables, source=source)
        ]
    return found


def _faults(
    sql: str, *, columns: Sequence[str], tables: Mapping[str, pa.Table], source: str
) -> list[tuple[int | None, str]]:
    """Return each fault of one query with its line in features.py."""
    import duckdb

    start = line_of_text(source, sql)
    with connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        try:
            returned = connection.sql(sql).columns
        except duckdb.Error as error:
            return [(_line_of_error(error, sql=sql, start=start), _said(error))]
    missing = [name for name in columns if name not in returned]
    return [
        (start, f"must return a column {name!r}, which model.yaml declares; {nearest(name, returned)}")
        for name in missing
    ]


def _line_of_error(error: duckdb.Error, *, sql: str, start: int | None) -> int | None:
    """Return the line in features.py that DuckDB means: it counts from the start of the query, or names a column."""
    if start is None:
        return None
    if counted := re.search(r"LINE (\d+):", str(error)):
        return start + int(counted[1]) - 1
    said = str(error).partition("Candidate")[0]
    named = [*reversed(re.findall(r'"(\w+)"', said)), *re.findall(r"(?:name|function) (\w+)", said)]
    at = next((found for found in (line_with(sql, word) for word in named) if found), 1)
    return start + at - 1


def _said(error: duckdb.Error) -> str:
    return " ".join(str(error).partition("\n\nLINE")[0].split())[:_SHOWN_CHARACTERS]


def line_of_text(source: str, text: str) -> int | None:
    r"""Return the line of a Python source where a literal text starts.

    >>> line_of_text("A = 1\nB = 'SELECT 1'\n", "SELECT 1")
    2
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value == text:
            return node.lineno
    return None


def check_expectations(spec: ModelSpec, *, folder: Path) -> list[Problem]:
    """Return what is wrong with the expectations: code that fails, and columns that no table has."""
    from include.validation.expectation_run import silence_great_expectations

    silence_great_expectations()
    path, found = folder / EXPECTATIONS, []
    try:
        module = importlib.import_module(f"include.models.{spec.name}.expectations")
        for table in spec.source.tables:
            made = module.expectations(table=table, partition=spec.source.first_partition, source=spec.source)
            columns = [*spec.source.tables[table].columns, PARTITION_COLUMN]
            found += _unknown_columns(made, table=table, columns=columns, path=path)
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
        return [problem_of(error, folder=folder, file=EXPECTATIONS)]
    return found


def _unknown_columns(made: Sequence[Any], *, table: str, columns: Sequence[str], path: Path) -> list[Problem]:
    source = path.read_text(encoding="utf-8")
    found = []
    for name in dict.fromkeys(name for expectation in made for name in _columns_of(expectation)):
        if name not in columns:
            text = f"table {table!r} has no column {name!r}; {nearest(name, columns)}"
            found.append(Problem(file=str(path), line=line_with(source, name), text=text))
    return found


def _columns_of(expectation: Any) -> list[str]:
    single = [getattr(expectation, field, None) for field in ("column", "column_A", "column_B")]
    return [name for name in (*single, *(getattr(expectation, "column_list", None) or ())) if isinstance(name, str)]


def check_network(spec: ModelSpec, *, folder: Path) -> list[Problem]:
    """Return what is wrong with network.py as a module; the dry run trains it."""
    try:
        module = importlib.import_module(f"include.models.{spec.name}.network")
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
        return [problem_of(error, folder=folder, file=NETWORK)]
    if callable(getattr(module, "build_network", None)):
        return []
    return [
        Problem(
            file=str(folder / NETWORK),
            line=None,
            text="must have build_network(inputs); got none. For example: "
            "from include.training.tabular import build_tabular as build_network",
        )
    ]
