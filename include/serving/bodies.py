"""Compressed bodies, read only as far as a request may be long."""

from __future__ import annotations

import zlib

from aiohttp import web

from include.serving.protocol import RequestError

ENCODING = "Content-Encoding"
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_ENCODINGS = ("gzip", "deflate")


def decompress(body: bytes, *, encoding: str, max_bytes: int) -> bytes:
    """Return what a body holds that was sent with a `Content-Encoding`.

    aiohttp would do this too, but waits for ever for the end of a stream that was cut off.

    Raises:
        RequestError: It is not compressed so, or by a way that nobody here knows.
        HTTPRequestEntityTooLarge: It holds more than `max_bytes`; not much more than these were made of it.
    """
    if encoding == "identity":
        return body
    what = ""
    if encoding in _ENCODINGS:
        stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            found = stream.decompress(body, max_bytes + 1)
        except zlib.error as error:
            what = f"must be {encoding}, as {ENCODING} says; got: {error}"
        else:
            if len(found) > max_bytes:
                raise web.HTTPRequestEntityTooLarge(max_size=max_bytes, actual_size=len(found))
            if stream.eof and not stream.unused_data:
                return found
            what = f"must be one whole stream of {encoding}; got one that is cut off, or something after it"
    else:
        what = f"may be compressed by {' or '.join(_ENCODINGS)}; got {encoding[:32]!r}"
    raise RequestError(f"the body of a request {what}. Nothing was scored. Send it plain.", {ENCODING: what})
