"""Airflow's own timetable, held against `include.partitions`: every partition has one run, after its end."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.exceptions import InvalidPartitionKeyError
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction

from dags import ingest
from include import partitions
from include.spec import ModelSpec, load_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from airflow.sdk import DAG
    from airflow.timetables.trigger import CronPartitionTimetable

NEW_YORK, KOLKATA, CAIRO = "America/New_York", "Asia/Kolkata", "Africa/Cairo"
SOURCES = [
    ("month", NEW_YORK, None, "2012-01", "2013-12"),
    ("month", KOLKATA, "30 6 28 * *", "2012-01", "2013-12"),
    ("week", NEW_YORK, None, "2012-W01", "2013-W52"),
    ("week", KOLKATA, "0 4 * * 7", "2020-W40", "2021-W20"),
    ("day", NEW_YORK, None, "2012-01-01", "2012-12-31"),
    ("day", KOLKATA, None, "2012-02-01", "2012-04-01"),
    ("day", CAIRO, "0 5 * * *", "2024-04-01", "2024-11-30"),
    ("hour", "UTC", None, "2012-02-28T00", "2012-03-12T23"),
]


def spec_of(grain: str, timezone: str, cron: str | None, first: str, last: str) -> ModelSpec:
    raw: dict[str, Any] = load_spec("flight_delays").model_dump(mode="json")
    changed = {"grain": grain, "timezone": timezone, "cron": cron, "first_partition": first, "last_partition": last}
    tables = {name: table | {"partition_columns": []} for name, table in raw["source"]["tables"].items()}
    return ModelSpec.model_validate(raw | {"source": raw["source"] | changed | {"tables": tables}})


def scheduled(dag: DAG) -> tuple[CronPartitionTimetable, DAG]:
    return DagSerialization.from_dict(DagSerialization.to_dict(dag)).timetable, dag


def runs_of(dag: DAG) -> Iterator[tuple[str, datetime]]:
    timetable, dag = scheduled(dag)
    restriction = TimeRestriction(dag.start_date, dag.end_date, catchup=True)
    info = None
    while info := timetable.next_dagrun_info_v2(last_dagrun_info=info, restriction=restriction):
        assert info.partition_key is not None
        yield info.partition_key, info.run_after


@pytest.mark.parametrize(("grain", "timezone", "cron", "first", "last"), SOURCES)
def test_each_partition_has_one_run_after_its_end(
    grain: str, timezone: str, cron: str | None, first: str, last: str
) -> None:
    runs = dict(runs_of(ingest.build(spec_of(grain, timezone, cron, first, last))))
    assert tuple(runs) == partitions.between(first, last)
    for key, run_after in runs.items():
        end = partitions.end_of(key, timezone=timezone)
        assert end <= run_after < partitions.end_of(partitions.shift(key, 1), timezone=timezone)
        if cron is None:
            assert run_after == end


@pytest.mark.parametrize(("grain", "timezone", "cron", "first", "last"), SOURCES)
def test_a_backfill_has_the_same_keys(grain: str, timezone: str, cron: str | None, first: str, last: str) -> None:
    timetable, _ = scheduled(ingest.build(spec_of(grain, timezone, cron, first, last)))
    # Airflow takes the wall-clock reading of both dates for local ones.
    earliest = partitions.start_of(first, timezone="UTC")
    latest = partitions.end_of(last, timezone="UTC") - timedelta(seconds=1)
    found = timetable.iter_partition_dagrun_infos(earliest=earliest, latest=latest)
    assert tuple(info.partition_key for info in found) == partitions.between(first, last)


@pytest.mark.parametrize(("grain", "timezone", "cron", "first", "last"), SOURCES)
def test_a_run_by_hand_is_of_the_partition_that_its_key_names(
    grain: str, timezone: str, cron: str | None, first: str, last: str
) -> None:
    timetable, _ = scheduled(ingest.build(spec_of(grain, timezone, cron, first, last)))
    if grain == "week":  # strptime reads %G-W%V only with a weekday; docs/pages/partitions.md says what to do instead
        with pytest.raises(InvalidPartitionKeyError):
            timetable.resolve_partition_date(first)
        return
    assert timetable.resolve_partition_date(last) == partitions.start_of(last, timezone=timezone)


def test_a_source_without_an_end_goes_on() -> None:
    spec = load_spec("flight_delays")
    endless = spec.model_copy(update={"source": spec.source.model_copy(update={"last_partition": None})})
    assert ingest.build(endless).end_date is None
