"""The point-in-time join that training and Feast's historical retrieval share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

    import duckdb
    import pyarrow as pa

_JOIN_SQL = """
WITH moments AS (SELECT DISTINCT available_at FROM features),
served AS (
    SELECT e.position, e.entity, e.event_at, CASE WHEN $is_replay THEN m.available_at ELSE e.event_at END AS served_at
    FROM examples AS e ASOF LEFT JOIN moments AS m ON e.event_at >= m.available_at
)
SELECT CASE WHEN $ttl IS NULL OR s.served_at - f.available_at <= $ttl THEN f.position END AS found
FROM served AS s ASOF LEFT JOIN features AS f ON s.entity = f.entity AND s.event_at >= f.available_at
ORDER BY s.position
"""


def connect() -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection whose times are UTC, wherever it runs."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def positions_as_of(
    *,
    entity: pa.ChunkedArray,
    event_at: pa.ChunkedArray,
    feature_entity: pa.ChunkedArray,
    available_at: pa.ChunkedArray,
    ttl: timedelta | None,
    is_replay: bool = False,
) -> pa.ChunkedArray:
    """Return, for each example, the position of the newest feature row that was available, or null.

    Args:
        entity: Entity of each example.
        event_at: Time of each example.
        feature_entity: Entity of each feature row.
        available_at: When each feature row could first be served.
        ttl: Largest age that is served; null for any.
        is_replay: Count the age to the newest `available_at` before the example, where the clock of a replay stands,
            not to the example itself.
    """
    import numpy as np
    import pyarrow as pa

    examples = {"position": np.arange(len(entity)), "entity": entity, "event_at": event_at}
    features = {"position": np.arange(len(feature_entity)), "entity": feature_entity, "available_at": available_at}
    with connect() as connection:
        connection.register("examples", pa.table(examples))
        connection.register("features", pa.table(features))
        rows = connection.sql(_JOIN_SQL, params={"is_replay": is_replay, "ttl": ttl}).to_arrow_table()
    return rows["found"]
