from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from include.errors import CorruptArtifactError
from include.features.feast_layout import (
    KEY_VERSION,
    decode_value,
    encode_value,
    entity_key,
    from_stored_time,
    key_prefix,
    to_stored_time,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.usefixtures("feast")


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("value", ["UA", "", "JFK-LAX", "Zürich ✈", "N" * 300])
def test_keys_are_feasts(value: str) -> None:
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    key = EntityKey(join_keys=["carrier"], entity_values=[Value(string_val=value)])
    assert entity_key(key_prefix("carrier"), value) == serialize_entity_key(key, KEY_VERSION)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -3.5, 1e300, math.inf])
def test_values_are_feasts(value: float) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    message = Value(double_val=value).SerializeToString()
    assert encode_value(value) == message
    assert decode_value(message) == value


def test_missing_values_are_feasts_empty_message() -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    assert encode_value(None) == encode_value(math.nan) == Value().SerializeToString() == b""
    assert decode_value(b"") is None
    assert decode_value(Value(double_val=math.nan).SerializeToString()) is None


@pytest.mark.parametrize("message", [b"\x29", b"\x29" + bytes(9), b"\x2a" + bytes(8)])
def test_another_type_of_value_is_refused(message: bytes) -> None:
    with pytest.raises(CorruptArtifactError, match="must be a Feast double; got the bytes"):
        decode_value(message)


@pytest.mark.parametrize("moment", [datetime(2013, 2, 1, 5, tzinfo=UTC), datetime(2013, 7, 1, 4, 59, 59, tzinfo=UTC)])
def test_times_are_feasts_in_any_zone(zone: str, moment: datetime) -> None:
    from feast.infra.online_stores.sqlite import adapt_datetime_epoch, convert_timestamp
    from feast.utils import to_naive_utc

    stored = adapt_datetime_epoch(to_naive_utc(moment))
    assert to_stored_time(moment) == stored
    assert from_stored_time(stored) == moment
    assert convert_timestamp(str(stored).encode()).replace(tzinfo=UTC) == moment
