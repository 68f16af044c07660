"""Bytes that once reached another line of the decoder or of its oracle, kept as tests."""

from __future__ import annotations

from typing import Final

_ID: Final = b"\xc4\x10" + b"i" * 16


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


_FRAMES: Final = tuple(
    _framed(body)
    for body in (
        b"\x92\x26\xcf\x00\x20\x00\x00\x00\x00\x00\x00",  # the highest position
        b"\x92\x26\xcf\x00\x20\x00\x00\x00\x00\x00\x01",  # and the one above it
        b"\x93\x27\x40\xc2",  # Read: a number, a bool
        b"\x93\x27\x40\x00",  # a number that is no bool
        b"\x92\x26\xc3",  # a bool that is no number
        b"\x92\x26\xca\x3f\x80\x00\x00",  # 1.0 is no number either
        b"\x93\x26\x01" + b"\x91" * 3000 + b"\xc0",  # a field of a newer version, 3,000 arrays deep
        b"\x93\x26\x01" + b"\x81\xa0" * 3000 + b"\xc0",
        b"\x93\x26\x01" + b"\x91" * 63 + b"\xc0",  # as deep as every receiver takes, and where Python ends
        b"\x93\x26\x01" + b"\x91" * 1000 + b"\xc0",
        b"\x93\x26\x01\xdd\xff\xff\xff\xff",  # one that claims 4 G
        b"\x93\x26\x01\xd4\x05\x00",  # an extension type
        b"\x93\x26\x01\xa2\xff\xfe",  # text that is not UTF-8
        b"\x93\x26\x01\x81\x91\x01\x02",  # a map with a list as key
        b"\x95\x22" + _ID + b"\x00\x00\xc4\x00",
        b"\x95\x22" + _ID + b"\x00\x00\xa0",  # text for bytes
        b"\xdc\x00\x02\x26\x01",
        b"\xdd\x00\x00\x00\x02\x26\x01",
        b"\x93\x26\x01\xc9\xff\xff\xff\xff",  # an extension of 4 G: msgpack 1.2 skips it as nothing
        b"\x91\x7f",  # an unknown type is skipped
        b"\x91\xff",
        b"\x92\x07\x01",  # Ping: known on channel 0 only
    )
)
CODEC: Final = (
    *_FRAMES,
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x01\x90",
    b"\x00\x00\x00\x00",
    b"\x00\x01\x00\x01\x91",
)
