"""How the supervisor sees that a server works: it answers a URL, accepts a connection, or writes its heartbeat."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from include.runtime.restarts import Health

if TYPE_CHECKING:
    from include.runtime.postgres import Postgres

_HTTP_OK = 200
_TIMEOUT_S = 20.0
"""The first answer of Airflow's execution API takes seconds."""
_START_PRECISION = timedelta(seconds=1)
"""The kernel tells when a process was started to a second."""


class Check(Protocol):
    """Asks one server; called from a thread, and may take seconds."""

    def __call__(self, *, since: datetime) -> Health:
        """Return the health of a process that was started at `since`."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The server answers a URL with 200."""

    url: str
    timeout_s: float = _TIMEOUT_S

    def __call__(self, *, since: datetime) -> Health:  # noqa: ARG002 - the port is only this process's
        """Ask once."""
        try:
            with urllib.request.urlopen(self.url, timeout=self.timeout_s) as response:  # noqa: S310 - our own loopback URL
                return Health.OK if response.status == _HTTP_OK else Health.SILENT
        except (urllib.error.URLError, OSError):
            return Health.SILENT


@dataclass(frozen=True, kw_only=True)
class AcceptsConnections:
    """PostgreSQL accepts a connection and answers a query."""

    postgres: Postgres

    def __call__(self, *, since: datetime) -> Health:  # noqa: ARG002 - the socket is only this process's
        """Connect once."""
        import psycopg2

        try:
            connection = psycopg2.connect(self.postgres.url("postgres", driver="postgresql"), connect_timeout=10)
        except psycopg2.OperationalError:
            return Health.SILENT
        connection.close()
        return Health.OK


@dataclass(frozen=True, kw_only=True)
class Heartbeats:
    """One of Airflow's processes without a port has written its heartbeat to the database lately.

    Args:
        url: The API server's `/api/v2/monitor/health`.
        component: The process's name there.
        max_age_s: Age at which a heartbeat is late; Airflow writes one every five seconds.
    """

    url: str
    component: str
    max_age_s: float = 30.0

    def __call__(self, *, since: datetime) -> Health:
        """Ask the API server once; when it or the database is silent, nothing is known."""
        try:
            with urllib.request.urlopen(self.url, timeout=_TIMEOUT_S) as response:  # noqa: S310 - our own loopback URL
                said = json.loads(response.read())
        except (urllib.error.URLError, OSError, ValueError):
            return Health.UNKNOWN
        if said["metadatabase"]["status"] != "healthy":
            return Health.UNKNOWN
        text = said[self.component][f"latest_{self.component}_heartbeat"]
        return judge_heartbeat(
            datetime.fromisoformat(text) if text else None, since=since, now=datetime.now(UTC), max_age_s=self.max_age_s
        )


def judge_heartbeat(beat: datetime | None, *, since: datetime, now: datetime, max_age_s: float) -> Health:
    """Return what a process's latest heartbeat says; one from before its start is its predecessor's.

    >>> start, now = datetime(2013, 1, 1, 0, 0, tzinfo=UTC), datetime(2013, 1, 1, 0, 5, tzinfo=UTC)
    >>> beats = (None, datetime(2012, 12, 31, tzinfo=UTC), datetime(2013, 1, 1, 0, 4, 31, tzinfo=UTC))
    >>> [str(judge_heartbeat(beat, since=start, now=now, max_age_s=30)) for beat in beats]
    ['silent', 'silent', 'ok']
    """
    if beat is None or beat < since + _START_PRECISION or (now - beat).total_seconds() > max_age_s:
        return Health.SILENT
    return Health.OK
