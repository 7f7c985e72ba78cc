"""One PostgreSQL database, wherever it runs: dump it, fill it, and say what it holds.

PostgreSQL's own programs do the work. A password reaches them by their environment, never by their command line.
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from include.errors import ServiceError, SetupError
from include.runtime.postgres import binary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from include.runtime.services import Deployment

DATABASES = ("airflow", "mlflow")
"""The databases of one deployment, in the order in which a backup reads them."""

SCHEMA = "public"

_NOBODYS = ("--no-owner", "--no-privileges")
"""Whoever fills a database owns what is in it."""
_NEWER_SETTINGS = frozenset({b"SET transaction_timeout = 0;\n"})
_HEAD_LINES = 40
_CONNECT_TIMEOUT_S = 10
_DRIVER = re.compile(r"^postgresql\+\w+://")
# Rows are compared as text, which these settings of a session decide.
_SAME_TEXT = "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 1"
_ROW_HASH = "('x' || substr(encode(sha256(convert_to(t::text, 'UTF8')), 'hex'), {start}, 16))::bit(64)::bigint"


@dataclass(frozen=True, kw_only=True)
class Database:
    """How libpq reaches a database; without a password it finds one by itself (PGPASSWORD, PGPASSFILE, ~/.pgpass).

    Args:
        parameters: libpq's keywords, such as host, user and dbname.
        password: Kept apart, so that it appears in no message and on no command line.
    """

    parameters: Mapping[str, str]
    password: str | None = field(default=None, repr=False)

    @classmethod
    def from_url(cls, url: str) -> Database:
        """Return the database that a URL names, SQLAlchemy's or libpq's.

        Raises:
            SetupError: It is no such URL.
        """
        import psycopg2
        from psycopg2.extensions import parse_dsn

        plain = _DRIVER.sub("postgresql://", url)
        try:
            found = dict(parse_dsn(plain)) if plain.startswith("postgresql://") else {}
        except psycopg2.ProgrammingError:
            found = {}
        if not found:
            raise SetupError(
                "a database must be named as postgresql://user@host:port/{database}; got another text, not shown since "
                "it may hold a password. Nothing was changed. Correct it."
            )
        password = found.pop("password", None)
        return cls(parameters=found, password=password)

    @property
    def name(self) -> str:
        """The database's own name."""
        return self.parameters.get("dbname", "")

    def named(self, name: str) -> Database:
        """Return another database of the same server."""
        return Database(parameters={**self.parameters, "dbname": name}, password=self.password)

    def __str__(self) -> str:
        where = self.parameters.get("host", "localhost")
        port = f":{self.parameters['port']}" if "port" in self.parameters else ""
        return f"{self.name!r} on {where}{port}"

    @contextmanager
    def connect(self) -> Iterator[Any]:
        """Yield a psycopg2 connection that commits each statement.

        Raises:
            ServiceError: The server does not answer, or refuses.
        """
        import psycopg2

        secret = {"password": self.password} if self.password is not None else {}
        try:
            connection = psycopg2.connect(**{"connect_timeout": str(_CONNECT_TIMEOUT_S), **self.parameters, **secret})
        except psycopg2.OperationalError as error:
            raise ServiceError(
                f"database {self} must let {self.parameters.get('user', 'its user')!r} in; got: {str(error).strip()}. "
                "Nothing was changed. Mend the address, or the password in PGPASSFILE."
            ) from error
        connection.autocommit = True
        with closing(connection):
            yield connection

    def query(self, statement: Any, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of one statement; none if it has none.

        Raises:
            ServiceError: The server does not answer, or refuses the statement.
        """
        import psycopg2

        with self.connect() as connection, connection.cursor() as cursor:
            try:
                cursor.execute(statement, values)
            except psycopg2.Error as error:
                raise ServiceError(
                    f"database {self} must accept a statement; got: {str(error).strip()}. Nothing was changed by it. "
                    "Give the user of the URL the rights of the database's owner."
                ) from error
            return list(cursor.fetchall()) if cursor.description else []

    def create(self, name: str) -> None:
        """Make another database on the same server.

        Raises:
            ServiceError: The server refuses.
        """
        from psycopg2 import sql

        self.query(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def comment(self) -> str | None:
        """Return what its owner noted on the database."""
        [(found,)] = self.query(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
        )
        return None if found is None else str(found)

    def set_comment(self, text: str) -> None:
        """Note a text on the database.

        Raises:
            ServiceError: Its user is not its owner.
        """
        from psycopg2 import sql

        self.query(sql.SQL("COMMENT ON DATABASE {} IS %s").format(sql.Identifier(self.name)), (text,))

    def dump(self, path: Path) -> None:
        """Write all of it as of one moment, while others read and write.

        Raises:
            ServiceError: pg_dump failed; the message holds what it said.
        """
        self._run("pg_dump", *_NOBODYS, self._address, "--format=custom", "--compress=none", f"--file={path}")

    def fill(self, path: Path) -> None:
        """Fill the empty database from a dump, in one transaction: killed, it stays empty.

        Raises:
            ServiceError: It failed; the message holds what PostgreSQL's programs said.
        """
        script = path.with_suffix(".sql")
        try:
            self._run("pg_restore", *_NOBODYS, f"--file={script}", str(path))
            _forget_newer_settings(script)
            options = ("--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1")
            self._run("psql", self._address, *options, f"--file={script}")
        finally:
            script.unlink(missing_ok=True)

    def tables(self) -> list[str]:
        """Return the names of its tables, in order."""
        found = self.query("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename", (SCHEMA,))
        return [name for (name,) in found]

    def schema_version(self) -> str | None:
        """Return the newest migration that Alembic has applied; None if its tables are not there yet."""
        if "alembic_version" not in self.tables():
            return None
        found = self.query("SELECT version_num FROM alembic_version")
        return found[0][0] if found else None

    def contents(self) -> dict[str, tuple[int, str]]:
        """Return table or sequence -> its number of rows and a hash of them, in any order; equal for equal content.

        The hash is the sum of the rows' SHA-256 (its first 128 bits), so that no order is needed and no memory.
        """
        from psycopg2 import sql

        halves = [f"coalesce(sum({_ROW_HASH.format(start=start)}), 0)" for start in (1, 17)]
        statement = f"SELECT count(*), {halves[0]}, {halves[1]} FROM {{}} AS t"  # noqa: S608 - constants
        found = {}
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(_SAME_TEXT)
            for name in self.tables():
                cursor.execute(sql.SQL(statement).format(sql.Identifier(SCHEMA, name)))
                num_rows, first, second = cursor.fetchone()
                found[name] = (int(num_rows), f"{int(first):x}.{int(second):x}")
            cursor.execute("SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = %s", (SCHEMA,))
            found |= {f"{name} (sequence)": (0, str(last)) for name, last in cursor.fetchall()}
        return found

    def require_empty(self) -> None:
        """Refuse to fill a database in which there is something.

        Raises:
            SetupError: It has tables.
        """
        if tables := self.tables():
            raise SetupError(
                f"database {self} must be empty to be filled; got {len(tables)} tables, such as {tables[0]!r}. It is "
                "unchanged. Name another database, or drop and create this one."
            )

    @property
    def _address(self) -> str:
        from psycopg2.extensions import make_dsn

        return f"--dbname={make_dsn(**self.parameters)}"

    def _run(self, program: str, *arguments: str) -> None:
        libpq = {name: value for name, value in os.environ.items() if name.startswith("PG") or name in ("PATH", "HOME")}
        secret = {"PGPASSWORD": self.password} if self.password is not None else {}
        done = subprocess.run(
            [str(binary(program)), *arguments],
            env={**libpq, "LC_ALL": "C", **secret},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServiceError(
                f"{program} of database {self} must end with exit code 0; got {done.returncode}: "
                f"{done.stderr.strip()[-500:]}. Nothing was published. Retry when the server is well."
            )


def _forget_newer_settings(script: Path) -> None:
    """Take out of a script's head what servers before PostgreSQL 17 do not know."""
    aside = script.with_suffix(".new")
    with script.open("rb") as before, aside.open("wb") as after:
        for number, line in enumerate(before):
            if number >= _HEAD_LINES or line not in _NEWER_SETTINGS:
                after.write(line)
    aside.replace(script)


def databases_of(deployment: Deployment) -> dict[str, Database]:
    """Return a deployment's databases by name, its own server's or those that TRADEWIND_DATABASE_URL names."""
    return {name: Database.from_url(deployment.database_url(name)) for name in DATABASES}


@contextmanager
def databases_running(deployment: Deployment, *, is_held: bool = False) -> Iterator[dict[str, Database]]:
    """Yield a deployment's databases while their server answers; an embedded one that is down runs for so long.

    Args:
        deployment: Whose databases.
        is_held: The caller holds the home already, and nothing of the deployment runs.

    Raises:
        SetupError: The embedded server cannot be started.
    """
    if not deployment.uses_embedded_postgres:
        yield databases_of(deployment)
        return
    with deployment.postgres.started() if is_held else deployment.postgres.running():
        yield databases_of(deployment)
