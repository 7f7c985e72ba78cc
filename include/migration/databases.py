"""A deployment's databases, moved from the embedded PostgreSQL to another server.

The source is only read. Each database is filled in one transaction and then compared, row by row, before it counts as
moved; a comment on the target database says how far that is, so that the next call goes on where a killed one stopped,
and nobody else's tables are ever touched.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from include.errors import BadInputError, CorruptArtifactError, ServiceError, SetupError
from include.runtime.databases import SCHEMA, Database, databases_running

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.runtime.services import Deployment

_PLACEHOLDER = "{database}"


@dataclass(frozen=True, kw_only=True)
class MovedDatabase:
    """One database that is at its new place, compared with the old one.

    Args:
        name: airflow or mlflow.
        num_tables: Its tables.
        num_rows: Their rows.
        is_new: False when an earlier call had moved it.
    """

    name: str
    num_tables: int
    num_rows: int
    is_new: bool


def target_url(text: str) -> str:
    """Return a server's URL as TRADEWIND_DATABASE_URL has it.

    Raises:
        BadInputError: It names one database, or holds a password: every user of the machine can read command lines.

    >>> target_url("postgresql://me@db.example:5432")
    'postgresql+psycopg2://me@db.example:5432/{database}'
    """
    parts = urlsplit(text)
    if parts.scheme.partition("+")[0] != "postgresql":
        raise BadInputError(
            f"the target must be named as postgresql://user@host:port; got the scheme {parts.scheme!r}. Nothing was "
            "changed. Only PostgreSQL is supported."
        )
    if parts.password is not None or "password" in parts.query:
        raise BadInputError(
            "the target's URL must hold no password, since command lines are no secret; got one. Nothing was changed. "
            "Put it into PGPASSWORD, or into ~/.pgpass or the file that PGPASSFILE names."
        )
    path = parts.path.lstrip("/") or _PLACEHOLDER
    if _PLACEHOLDER not in path:
        raise BadInputError(
            f"the target must name a server, or databases by {_PLACEHOLDER!r}; got the database {path!r}. Nothing was "
            "changed. Leave it out: the databases are called airflow and mlflow."
        )
    query = f"?{parts.query}" if parts.query else ""
    return f"postgresql+psycopg2://{parts.netloc}/{path}{query}"


def move_databases(deployment: Deployment, url: str, *, say: Callable[[str], None]) -> list[MovedDatabase]:
    """Copy the deployment's databases to another server and compare them; the caller holds the home, nothing runs.

    Args:
        deployment: With its embedded PostgreSQL.
        url: From `target_url`.
        say: Told what is being done.

    Raises:
        SetupError: A target database holds something that is not this deployment's own unfinished move.
        ServiceError: A server does not answer or refuses.
        CorruptArtifactError: What arrived differs.
    """
    mover = hashlib.sha256(deployment.secrets.fernet_key.encode()).hexdigest()[:16]
    moved = []
    with databases_running(deployment, is_held=True) as sources:
        for name, source in sources.items():
            target = Database.from_url(url.replace(_PLACEHOLDER, name))
            _ensure_exists(target)
            moved.append(_Move(name=name, source=source, target=target, mover=mover, say=say).run())
    return moved


@dataclass(frozen=True, kw_only=True)
class _Move:
    name: str
    source: Database
    target: Database
    mover: str
    say: Callable[[str], None]

    def run(self) -> MovedDatabase:
        self.say(f"reading database {self.name}")
        wanted = self.source.contents()
        noted, is_new = self.target.comment(), False
        if noted != self._note("moved"):
            is_new = True
            self._require_ours(noted)
            if self.target.contents() != wanted:
                self._fill()
            self.say(f"comparing database {self.name}")
        self._require_equal(wanted, self.target.contents())
        self.target.set_comment(self._note("moved"))
        num_rows = sum(rows for rows, _ in wanted.values())
        return MovedDatabase(name=self.name, num_tables=len(self.source.tables()), num_rows=num_rows, is_new=is_new)

    def _note(self, state: str) -> str:
        return f"tradewind {self.mover}: {state}"

    def _require_ours(self, noted: str | None) -> None:
        if noted != self._note("moving"):
            self.target.require_empty()
            self.target.set_comment(self._note("moving"))

    def _fill(self) -> None:
        self.say(f"filling database {self.name}")
        self.target.query(f"DROP SCHEMA {SCHEMA} CASCADE")
        self.target.query(f"CREATE SCHEMA {SCHEMA}")
        with tempfile.TemporaryDirectory(prefix="tradewind-") as folder:
            dump = Path(folder) / "dump"
            self.source.dump(dump)
            self.target.fill(dump)

    def _require_equal(self, wanted: dict[str, tuple[int, str]], found: dict[str, tuple[int, str]]) -> None:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if differing:
            first = differing[0]
            raise CorruptArtifactError(
                f"database {self.target} must hold what {self.source} holds; got a difference in {len(differing)} "
                f"tables, such as {first!r}: {found.get(first, (0,))[0]} rows for {wanted.get(first, (0,))[0]}. The "
                "source is unchanged. Drop the target database if nobody works in it, and start again."
            )


def _ensure_exists(target: Database) -> None:
    """Make the database if it is not there and its server lets us."""
    try:
        target.tables()
    except ServiceError as error:
        if "does not exist" not in str(error):
            raise
        try:
            target.named("postgres").create(target.name)
        except ServiceError as refused:
            raise SetupError(
                f"database {target} must exist; got none, and it could not be made: {refused} Create it, owned by the "
                "user of the URL."
            ) from refused
