"""The real weather of 2013, landed day by day for `airport_weather`, and what its callers ask on a day."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from include import partitions
from include.demo.package_data import WEATHER, weather_of
from include.features.examples import examples_of
from include.lake.csv_reader import read_csv
from include.lake.landing import is_landed, land_files
from include.lake.tables import PARTITION_COLUMN
from include.spec import load_spec

if TYPE_CHECKING:
    from include.lake.storage import Storage

    Columns = dict[str, list[Any]]
    """Name of an input -> its values, one a row."""

MODEL = "airport_weather"
_TABLE = "weather"


def land_day(*, storage: Storage, partition: str) -> None:
    """Land one real day: the three airports' hourly reports by local date, then the marker.

    Args:
        storage: Where to land.
        partition: The day, such as 2013-01-31.
    """
    source = load_spec(MODEL).source
    partitions.require(partition, source=source, model=MODEL)
    files = day_files(partition)
    land_files(storage=storage, model=MODEL, partition=partition, marker=source.marker, files=files)


def day_files(partition: str) -> dict[str, bytes]:
    """Return the files of one day as `land_day` delivers them, by name."""
    return {WEATHER: weather_of(*partitions.calendar_parts(partition))}


def days_to_land(*, storage: Storage, num_days: int) -> tuple[str, ...]:
    """Return the next days that have not landed yet, oldest first; fewer where the source ends."""
    source = load_spec(MODEL).source
    days = partitions.between(source.first_partition, source.last_partition or source.first_partition)
    waiting = (day for day in days if not is_landed(storage=storage, model=MODEL, partition=day, marker=source.marker))
    return tuple(day for day, _ in zip(waiting, range(num_days), strict=False))


def day_requests(partition: str) -> dict[str, Columns]:
    """Return what callers ask on a day, by request id: one request an hour, with a row for each airport.

    A report that the day's expectations would quarantine is asked about all the same: callers do not wait for them.
    One without a temperature has nothing to be asked about.
    """
    import pyarrow as pa

    spec = load_spec(MODEL)
    table = spec.source.tables[_TABLE]
    rows = read_csv(day_files(partition)[table.file], file=table.file, table=table)
    rows = rows.append_column(PARTITION_COLUMN, pa.array([partition] * rows.num_rows, pa.string()))
    examples = examples_of(spec=spec, tables={_TABLE: rows}).to_pylist()
    names = ("example_id", *(feature.name for feature in spec.features.request))
    requests = {}
    for at, reports in groupby(examples, key=itemgetter("event_at")):
        known = [report for report in reports if report["temp"] is not None]
        requests[f"{MODEL}-{at:%Y-%m-%dT%H}Z"] = {name: [report[name] for report in known] for name in names}
    return requests
