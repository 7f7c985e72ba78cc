"""The real flights of 2013, landed month by month as an upstream system would deliver them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include import partitions
from include.demo.package_data import FLIGHTS, WEATHER, flights_of, weather_of
from include.lake.landing import land_files
from include.spec import load_spec

if TYPE_CHECKING:
    from include.lake.storage import Storage

MODEL = "flight_delays"


def land_month(*, storage: Storage, partition: str, max_flights: int | None = None) -> None:
    """Land one real month: its flights and its hourly weather, by local year and month, then the marker.

    Lines are delivered byte for byte as the package has them, under their header.

    Args:
        storage: Where to land.
        partition: The month, such as 2013-01.
        max_flights: Land only so many flights, evenly spread over the month; the weather stays whole.
    """
    source = load_spec(MODEL).source
    partitions.require(partition, source=source, model=MODEL)
    land_files(
        storage=storage,
        model=MODEL,
        partition=partition,
        marker=source.marker,
        files=month_files(partition, max_flights=max_flights),
    )


def month_files(partition: str, *, max_flights: int | None = None) -> dict[str, bytes]:
    """Return the files of one month as `land_month` delivers them, by name."""
    year, month = partitions.calendar_parts(partition)
    flights = flights_of(year=year, month=month)
    if max_flights is not None:
        flights = _spread(flights, max_rows=max_flights)
    return {FLIGHTS: flights, WEATHER: weather_of(year, month)}


def _spread(csv: bytes, *, max_rows: int) -> bytes:
    header, *rows = csv.splitlines(keepends=True)
    if len(rows) <= max_rows:
        return csv
    return b"".join([header, *(rows[index * len(rows) // max_rows] for index in range(max_rows))])
