"""What a device signs to prove who it is, and how a device is named. Pure: both ends use it.

The channel binding is a value that only the two ends of this one TLS connection can derive (RFC 9266), so
that a signature is worth nothing on another connection and there is nothing to replay.
"""

from __future__ import annotations

import hashlib
from typing import Final

from quicmsg.protocol.frames import SIGNATURE_CONTEXT

PUBLIC_KEY_SIZE: Final = 32
DEVICE_SIZE: Final = 16


def sign_in_message(user: str, public_key: bytes, binding: bytes) -> bytes:
    """The bytes under the signature of an Authenticate frame."""
    # No name has a NUL in it and a key has one size: the parts cannot be shifted against each other.
    assert "\0" not in user
    assert len(public_key) == PUBLIC_KEY_SIZE
    return SIGNATURE_CONTEXT + b"\0" + user.encode() + b"\0" + public_key + binding


def device_of(public_key: bytes) -> bytes:
    """The id of the device that holds this key."""
    return hashlib.sha256(public_key).digest()[:DEVICE_SIZE]
