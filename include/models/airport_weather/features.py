"""What one hour of weather is for `airport_weather`, in DuckDB's SQL.

Rules that a reader would ask for:

* An example is one hourly report of one station, at its own time.
* Its label comes from the report of exactly six hours later, in the same table; where that was not delivered, or was
  quarantined, there is none. It is known as soon as that report is.
* Six hours reach into the next day but never beyond, on days of a clock change too.
* The hour of the day is the local one: the sun follows the clock closely enough, and the label does not.
"""

LOOKAHEAD_PARTITIONS = 1
"""Following days that hold what a label is made from."""

EXAMPLES_SQL = """
SELECT
    now.origin || '-' || strftime(now.time_hour, '%Y-%m-%dT%HZ') AS example_id,
    now.time_hour AS event_at,
    later.time_hour AS known_at,
    later.temp - now.temp AS label,
    now.partition,
    now.origin,
    lpad(CAST(now.hour AS VARCHAR), 2, '0') AS hour_of_day,
    now.temp,
    now.dewp,
    now.humid,
    CAST(now.wind_dir AS DOUBLE) AS wind_dir,
    now.wind_speed,
    now.precip,
    now.pressure,
    now.visib
FROM weather AS now
LEFT JOIN weather AS later ON later.origin = now.origin AND later.time_hour = now.time_hour + INTERVAL 6 HOUR
"""
"""Over `weather`: one row an hourly report."""
