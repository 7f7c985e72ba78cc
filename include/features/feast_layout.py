"""Bytes of Feast's SQLite online store (key serialization 3), so that neither a write nor a read needs Feast loaded.

Importing Feast costs 7 to 12 s and 290 MB in each process; these few rules cost nothing. Feast itself creates the
tables, and reads and writes the same rows: the tests compare this module's bytes with those that Feast 0.67 writes.
"""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime

from include.errors import CorruptArtifactError

KEY_VERSION = 3
_STRING = 2  # feast.types.Value: ValueType.STRING
_DOUBLE = 0x29  # protobuf tag of Value.double_val: field 5, 64 bits
_VALUE = struct.Struct("<Bd")


def table_name(*, project: str, view: str) -> str:
    """Return the quoted SQLite table of a view; both names are identifiers by the spec's own pattern."""
    return f'"{project}_{view}"'


def key_prefix(entity: str) -> bytes:
    """Return how the keys of an entity start.

    >>> key_prefix("carrier").hex(" ")
    '01 00 00 00 02 00 00 00 07 00 00 00 63 61 72 72 69 65 72 02 00 00 00'
    """
    name = entity.encode()
    return struct.pack("<III", 1, _STRING, len(name)) + name + struct.pack("<I", _STRING)


def entity_key(prefix: bytes, value: str) -> bytes:
    """Return the key of one entity value, given its entity's `key_prefix`."""
    text = value.encode(errors="surrogatepass")  # a broken text is an unknown entity, not an error
    return prefix + struct.pack("<I", len(text)) + text


def encode_value(value: float | None) -> bytes:
    """Return the protobuf message of a number; missing and NaN are the empty message.

    >>> decode_value(encode_value(0.25)), decode_value(encode_value(float("nan")))
    (0.25, None)
    """
    return b"" if value is None or math.isnan(value) else _VALUE.pack(_DOUBLE, value)


def decode_value(message: bytes) -> float | None:
    """Return the number in a message that `encode_value` or Feast wrote.

    Raises:
        CorruptArtifactError: The message holds something else.
    """
    if not message:
        return None
    if len(message) != _VALUE.size or message[0] != _DOUBLE:
        raise CorruptArtifactError(
            f"a value of the online store must be a Feast double; got the bytes {message.hex()}. Nothing was changed. "
            "Delete the online store's file and materialize the newest partitions again."
        )
    value: float = _VALUE.unpack(message)[1]
    return None if math.isnan(value) else value


def to_stored_time(moment: datetime) -> int:
    """Return a moment as Feast's SQLite store keeps it.

    Feast drops the zone of a UTC time and lets Python read the rest as local: seconds off by the machine's offset. What
    reads it back undoes that, so this has to do it too.
    """
    return int(moment.astimezone(UTC).replace(tzinfo=None).timestamp())


def from_stored_time(stored: int) -> datetime:
    """Return the moment, in UTC and whole seconds, of a stored time."""
    return datetime.fromtimestamp(stored).replace(tzinfo=UTC)  # noqa: DTZ006 - local on purpose, see to_stored_time
