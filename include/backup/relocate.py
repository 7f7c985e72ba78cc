"""Names of files in a deployment that was restored into another folder.

MLflow keeps absolute paths of its artifacts, the routes those of packages, Airflow's XComs those of jobs. The ledger
and the packages keep the old ones: they are records, and their hashes prove that nobody changed them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.runtime.databases import Database
    from include.runtime.home import Home

PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./-]+")
"""A path that is written alike in a text, in JSON and in a URI."""
_TEXT_COLUMNS = """
SELECT table_name, column_name, data_type FROM information_schema.columns JOIN information_schema.tables
USING (table_schema, table_name)
WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND is_generated = 'NEVER'
AND data_type IN ('text', 'character varying', 'json', 'jsonb')
ORDER BY table_name, column_name
"""


def relocate_files(home: Home, *, old: str) -> int:
    """Let the routes, jobs and training sets below a home name their files there; return how many changed."""
    num_changed = 0
    for path in _documents(home):
        before = path.read_text()
        after = _replace(before, old=old, new=str(home.root))
        if after != before:
            path.write_text(after)
            num_changed += 1
    return num_changed


def relocate_database(database: Database, *, old: str, new: str) -> int:
    """Replace a folder's path in every text and JSON column; return how many values changed."""
    from psycopg2 import sql

    num_changed = 0
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(_TEXT_COLUMNS)
        for table, column, kind in cursor.fetchall():
            named = {"table": sql.Identifier(table), "column": sql.Identifier(column), "kind": sql.SQL(kind)}
            statement = sql.SQL(
                "UPDATE {table} SET {column} = regexp_replace({column}::text, %s, %s, 'g')::{kind} "
                "WHERE {column}::text ~ %s"
            ).format(**named)
            cursor.execute(statement, (_pattern(old), rf"\1{new}", _pattern(old)))
            num_changed += cursor.rowcount
    return num_changed


def _documents(home: Home) -> Iterator[Path]:
    yield from home.serving.glob("*.json")
    for folder in ("jobs", "snapshots"):
        for path in (home.data / folder).rglob("*.json"):
            if "package" not in path.relative_to(home.data).parts:
                yield path


def _replace(text: str, *, old: str, new: str) -> str:
    return re.sub(_pattern(old), lambda match: f"{match[1]}{new}", text)


def _pattern(folder: str) -> str:
    """Return where a folder's path stands, as Python and PostgreSQL both read it."""
    return rf"(^|[^A-Za-z0-9_.~%/-]|//){re.escape(folder)}(?![A-Za-z0-9_.~%-])"
