"""What is signed to prove who a device is."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from quicmsg.protocol.frames import Join, Name
from quicmsg.protocol.signin import device_of, sign_in_message

KEY = bytes(range(32))


def test_signed_message_is_byte_exact() -> None:
    """Somebody who writes a client in another language signs these bytes."""
    expected = b"quicmsg-auth-v1\0alice\0" + KEY + b"binding"
    assert sign_in_message("alice", KEY, b"binding") == expected
    assert device_of(KEY) == hashlib.sha256(KEY).digest()[:16]


@pytest.mark.parametrize(("user", "key"), [("a\0b", KEY), ("alice", KEY[:31])])
def test_parts_of_the_message_cannot_be_shifted(user: str, key: bytes) -> None:
    """What could be read as another user's message is never signed."""
    with pytest.raises(AssertionError):
        sign_in_message(user, key, b"binding")


def test_name_with_a_line_break_is_no_name() -> None:
    """Two names that look alike are never two accounts: "bob" and "bob\\n"."""
    for frame in ([15, 1, "#bob\n"], [15, 1, "bob"]):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(frame, Join)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert("bob\n", Name)
    assert msgspec.convert("bob", Name) == "bob"
