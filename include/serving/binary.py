"""Binary tensors of the Open Inference Protocol v2: little-endian values after the JSON of a request or an answer.

Source: Triton Inference Server, protocol extension "binary tensor data".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""Numeric datatype -> its format in Python's `struct`."""

STRINGS = "BYTES"
_LENGTH_BYTES = 4


def decode(raw: bytes, *, datatype: str, num_values: int) -> list[str | float | None]:
    """Return the values of one tensor; NaN and the empty string stand for null, which this form does not have.

    Raises:
        ValueError: The bytes are not so many values of the datatype; the message says why.
    """
    if datatype == STRINGS:
        return _strings(raw, num_values)
    if datatype not in FORMATS:
        raise ValueError(f"must have a datatype of {', '.join((STRINGS, *FORMATS))}; got {datatype[:32]!r}")
    form = FORMATS[datatype]
    num_bytes = num_values * struct.calcsize(form)
    if len(raw) != num_bytes:
        raise ValueError(f"must have {num_bytes} bytes for {num_values} values of {datatype}; got {len(raw)}")
    values = struct.unpack(f"<{num_values}{form}", raw)
    if datatype in {"FP16", "FP32", "FP64"}:
        return [value if value == value else None for value in values]  # noqa: PLR0124 - true of NaN only
    return list(map(float, values))


def encode(values: Sequence[float]) -> bytes:
    """Return float32 values.

    >>> encode([0.5]).hex()
    '0000003f'
    """
    return struct.pack(f"<{len(values)}f", *values)


def _strings(raw: bytes, num_values: int) -> list[str | float | None]:
    found: list[str | float | None] = []
    at, end = 0, len(raw)
    for _ in range(num_values):
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(raw[at:begin], "little")
        if begin > end or at > end:
            raise ValueError(f"must have {num_values} strings, each after its length in 4 bytes; got {len(found)}")
        found.append(raw[begin:at].decode() or None)  # a UnicodeDecodeError is a ValueError
    if at != end:
        raise ValueError(f"must have {num_values} strings and nothing more; got {end - at} bytes more")
    return found
