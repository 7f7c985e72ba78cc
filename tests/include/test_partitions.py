from datetime import UTC, datetime

import pytest

from include import partitions
from include.errors import PartitionError
from include.spec import load_spec

SOURCE = load_spec("flight_delays").source
NOW = datetime(2026, 1, 5, tzinfo=UTC)


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
