"""The features of `flight_delays` in DuckDB's SQL: what one flight is, and what its entities' recent past says.

Rules that a reader would ask for:

* A flight's time is its scheduled departure in UTC: `time_hour` plus the minute of the schedule.
* Its label is missing when it was cancelled or diverted: it never arrived where it was going.
* Its outcome counts as known at departure + time in the air + 4 hours of taxiing. The arrival's own clock is local to a
  destination whose zone the data does not hold, and is not needed: over the 186,329 flights of 2013 within New York's
  zone, taxiing took 27 minutes in the median and 205 at most, so 4 hours never reads an outcome too early.
* Weather is the hour of the scheduled departure at the origin; where no row was delivered it is missing, not zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HISTORY_DAYS = 28
"""Days of departures before the end of a partition that its store features look at."""

EXAMPLES_SQL = """
WITH scheduled AS (
    SELECT
        *,
        time_hour + to_minutes("minute") AS event_at,
        make_date("year", "month", "day") AS local_day
    FROM flights
)
SELECT
    strftime(s.local_day, '%Y-%m-%d') || '-' || s.carrier || '-' || s.flight || '-' || s.origin AS example_id,
    s.event_at,
    CASE WHEN s.arr_delay IS NOT NULL
        THEN s.event_at + to_minutes(s.dep_delay + s.air_time) + INTERVAL 4 HOUR END AS known_at,
    s.arr_delay > 15 AS label,
    s.partition,
    s.carrier,
    s.origin,
    s.dest,
    strftime(s.local_day, '%a') AS day_of_week,
    CAST(s.sched_dep_time // 100 * 60 + s.sched_dep_time % 100 AS DOUBLE) AS dep_minute_of_day,
    CAST(s.sched_arr_time // 100 * 60 + s.sched_arr_time % 100 AS DOUBLE) AS arr_minute_of_day,
    CAST(s.distance AS DOUBLE) AS distance,
    CAST(w.temp AS DOUBLE) AS temp,
    CAST(w.dewp AS DOUBLE) AS dewp,
    CAST(w.humid AS DOUBLE) AS humid,
    CAST(w.wind_speed AS DOUBLE) AS wind_speed,
    CAST(w.precip AS DOUBLE) AS precip,
    CAST(w.pressure AS DOUBLE) AS pressure,
    CAST(w.visib AS DOUBLE) AS visib,
    s.origin || '-' || s.dest AS route,
    s.tailnum
FROM scheduled AS s LEFT JOIN weather AS w ON s.origin = w.origin AND s.time_hour = w.time_hour
"""
"""Over `flights` and `weather`: one row a flight, with its request features, entities, label and times."""

VIEWS: Mapping[str, str] = {
    "carrier_lateness": """
        SELECT carrier, avg(CAST(label AS INTEGER)) AS carrier_late_frac_28d,
            CAST(count(*) AS DOUBLE) AS carrier_num_flights_28d
        FROM history WHERE carrier IS NOT NULL GROUP BY carrier""",
    "origin_lateness": """
        SELECT origin, avg(CAST(label AS INTEGER)) AS origin_late_frac_28d,
            CAST(count(*) AS DOUBLE) AS origin_num_flights_28d
        FROM history WHERE origin IS NOT NULL GROUP BY origin""",
    "route_lateness": """
        SELECT route, avg(CAST(label AS INTEGER)) AS route_late_frac_28d,
            CAST(count(*) AS DOUBLE) AS route_num_flights_28d
        FROM history WHERE route IS NOT NULL GROUP BY route""",
    "tail_lateness": """
        SELECT tailnum, avg(CAST(label AS INTEGER)) AS tail_late_frac_28d,
            CAST(count(*) AS DOUBLE) AS tail_num_flights_28d
        FROM history WHERE tailnum IS NOT NULL GROUP BY tailnum""",
}
"""Over `history`, the examples whose outcome was known: one row an entity."""
