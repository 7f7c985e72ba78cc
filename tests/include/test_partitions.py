from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from include import partitions
from include.errors import PartitionError
from include.partitions import EXAMPLES, KEY_FORMATS, Grain
from include.spec import load_spec

SOURCE = load_spec("flight_delays").source
NOW = datetime(2026, 1, 5, tzinfo=UTC)
NEW_YORK = "America/New_York"
ZONES = ["UTC", NEW_YORK, "Asia/Kolkata", "Africa/Cairo", "America/Havana", "Pacific/Apia", "Australia/Lord_Howe"]

grains = st.sampled_from(get_args(Grain))
zones = st.sampled_from(ZONES)
moments = st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))  # noqa: DTZ001
steps = st.integers(-1000, 1000)


@st.composite
def keys(draw: st.DrawFn) -> str:
    return partitions.key_at(draw(moments), grain=draw(grains), timezone="UTC")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "needs a partition key; got none"),
        ("None", "needs a partition key; got none"),
        ("2013-13", "must look like 2013-01; got '2013-13'"),
        ("2012-12", "'2012-12' is outside the source"),
        ("2014-01", "'2014-01' is outside the source"),
    ],
)
def test_a_bad_key_says_which_exist(key: str | None, message: str) -> None:
    with pytest.raises(PartitionError, match=f"{message}.*from 2013-01 to 2013-12"):
        partitions.require(key, source=SOURCE, model="flight_delays")


def test_a_run_without_a_key_is_told_one_that_exists_and_how_a_dag_takes_it() -> None:
    source = SOURCE.model_copy(update={"first_partition": "2013-04"})
    with pytest.raises(PartitionError, match=r"such as 2013-04, from 2013-04 .* `schedule=PartitionedAtRuntime\(\)`\."):
        partitions.require(None, source=source, model="flight_delays")


@pytest.mark.parametrize("key", ["2013-01", "2013-12"])
def test_the_first_and_the_last_key_are_allowed(key: str) -> None:
    assert partitions.require(key, source=SOURCE, model="flight_delays") == key


def test_a_partition_ends_at_local_midnight_on_either_side_of_daylight_saving() -> None:
    assert partitions.end_of("2013-02", timezone=SOURCE.timezone) == datetime(2013, 3, 1, 5, tzinfo=UTC)
    assert partitions.end_of("2013-03", timezone=SOURCE.timezone) == datetime(2013, 4, 1, 4, tzinfo=UTC)


def test_a_replay_is_available_when_it_would_have_been_and_a_live_source_when_published() -> None:
    delayed = SOURCE.model_copy(update={"availability_delay_s": 3600})
    assert partitions.available_at("2013-02", source=delayed, published_at=NOW) == datetime(2013, 3, 1, 6, tzinfo=UTC)
    live = SOURCE.model_copy(update={"clock": "wall"})
    assert partitions.available_at("2013-02", source=live, published_at=NOW) == NOW


@given(key=keys(), steps=steps)
def test_going_back_undoes_going_on(key: str, steps: int) -> None:
    assert partitions.shift(partitions.shift(key, steps), -steps) == key
    assert (partitions.shift(key, steps) > key) == (steps > 0)  # keys of one grain sort by time
    assert partitions.grain_of(partitions.shift(key, steps)) == partitions.grain_of(key)


@given(key=keys(), num=st.integers(0, 500))
def test_a_window_is_all_between_its_ends(key: str, num: int) -> None:
    window = partitions.window(key, num)
    assert len(window) == num
    assert list(window) == [partitions.shift(key, offset) for offset in range(1 - num, 1)]
    if num:
        assert partitions.between(window[0], key) == window
    assert partitions.between(partitions.shift(key, 1), key) == ()


@given(key=keys(), zone=zones)
def test_a_partition_ends_where_the_next_one_starts(key: str, zone: str) -> None:
    start, end = partitions.start_of(key, timezone=zone), partitions.end_of(key, timezone=zone)
    assert end == partitions.start_of(partitions.shift(key, 1), timezone=zone)
    assert start <= end
    assume(start < end)  # Samoa left out 30 December 2011
    grain = partitions.grain_of(key)
    assert partitions.key_at(start, grain=grain, timezone=zone) == key
    local = start.astimezone(UTC if grain == "hour" else ZoneInfo(zone))
    assert local.strftime(KEY_FORMATS[grain]) == key
    assert partitions.key_at(end - timedelta(seconds=1), grain=grain, timezone=zone) == key
    assert partitions.key_at(end, grain=grain, timezone=zone) > key


@given(moment=moments, grain=grains, zone=zones)
def test_each_moment_lies_in_its_partition(moment: datetime, grain: Grain, zone: str) -> None:
    key = partitions.key_at(moment, grain=grain, timezone=zone)
    assert partitions.start_of(key, timezone=zone) <= moment < partitions.end_of(key, timezone=zone)


@given(text=st.from_regex(r"\d{4}-(W\d\d|\d\d(-\d\d(T\d\d)?)?)", fullmatch=True) | st.text(max_size=14))
def test_what_is_accepted_is_a_key(text: str) -> None:
    try:
        assert partitions.shift(text, 0) == text
        assert text.isascii()
    except PartitionError:
        assert not any(partitions.is_key(text, grain=grain) for grain in get_args(Grain))


@pytest.mark.parametrize(
    ("day", "hours"), [("2013-03-10", 23), ("2013-11-03", 25), ("2013-03-09", 24), ("2012-02-29", 24)]
)
def test_a_day_of_a_clock_change_is_shorter_or_longer(day: str, hours: int) -> None:
    length = partitions.end_of(day, timezone=NEW_YORK) - partitions.start_of(day, timezone=NEW_YORK)
    assert length == timedelta(hours=hours)


def test_weeks_are_those_of_iso_8601() -> None:
    assert partitions.start_of("2013-W01", timezone=NEW_YORK).astimezone(ZoneInfo(NEW_YORK)).date().isoformat() == (
        "2012-12-31"
    )
    assert partitions.between("2020-W52", "2021-W01") == ("2020-W52", "2020-W53", "2021-W01")


@pytest.mark.parametrize(
    "key", ["2013-W53", "2013-W00", "2013-02-29", "2013-00", "2013-01-31T24", "20130131", "2013-W05-1", "13-01", ""]
)
def test_what_the_calendar_lacks_is_no_key(key: str) -> None:
    with pytest.raises(PartitionError, match=f"a month, a week, a day or an hour, such as 2013-01, .*; got {key!r}"):
        partitions.shift(key, 0)


def test_two_grains_have_nothing_between_them() -> None:
    with pytest.raises(PartitionError, match="got '2013-01', a month, and '2013-01-31', a day"):
        partitions.between("2013-01", "2013-01-31")


@pytest.mark.parametrize("grain", get_args(Grain))
def test_a_key_of_another_grain_is_refused_with_an_example(grain: Grain) -> None:
    source = SOURCE.model_copy(
        update={"grain": grain, "first_partition": EXAMPLES[grain], "last_partition": None, "timezone": "UTC"}
    )
    assert partitions.require(EXAMPLES[grain], source=source, model="m") == EXAMPLES[grain]
    for other in set(get_args(Grain)) - {grain}:
        with pytest.raises(PartitionError, match=f"must look like {EXAMPLES[grain]}; got .*each {grain}, such as"):
            partitions.require(EXAMPLES[other], source=source, model="m")
