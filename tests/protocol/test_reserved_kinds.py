"""Log entries about the group itself are the server's: no client can write one."""

from __future__ import annotations

import pytest

from quicmsg.errors import ErrorCode
from quicmsg.protocol import events, frames
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.server import ServerSession


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_a_client_cannot_write_that_somebody_joined_or_left(kind: int) -> None:
    """Otherwise a member could make everybody believe that somebody left."""
    session = ServerSession(now=0.0)
    session.connected(channel_binding=bytes(32), observed_address="192.0.2.1:1", now=0.0)
    session.welcome(user="alice", device=bytes(16), epoch=1, account_head=0, time_ms=0, now=0.0)
    session.receive_data(1, encode(frames.Open("#team", 0, 0, 0)), False, 0.0)
    session.opened(1, epoch=1, oldest=1, head=0, position=0, reset=False, members=[], now=0.0)
    session.data_to_send()
    session.receive_data(1, encode(frames.Send(bytes(16), kind, 0, b"bob")), False, 0.0)
    reader = FrameReader(control=False)
    for outgoing in session.data_to_send():
        reader.feed(outgoing.data)
    answer = reader.next_frame()
    assert isinstance(answer, frames.Rejected)
    assert (answer.message_id, answer.code) == (bytes(16), ErrorCode.FORBIDDEN)
    while (event := session.next_event()) is not None:
        assert not isinstance(event, events.MessageSubmitted)
