"""A channel that the client ends or aborts while its Open is still being looked up."""

from __future__ import annotations

from quicmsg.protocol import events, frames
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.server import ServerSession

OPEN = encode(frames.Open("@bob", 0, 0, 0))


def signed_in() -> ServerSession:
    session = ServerSession(now=0.0)
    session.connected(channel_binding=bytes(32), observed_address="192.0.2.1:1", now=0.0)
    session.welcome(user="alice", device=bytes(16), epoch=1, account_head=0, time_ms=0, now=0.0)
    session.data_to_send()
    return session


def say_opened(session: ServerSession) -> None:
    session.opened(1, epoch=1, oldest=1, head=0, position=0, reset=False, members=[], now=0.0)


def closings(session: ServerSession) -> int:
    count = 0
    while (event := session.next_event()) is not None:
        count += isinstance(event, events.ChannelClosed)
    return count


def test_an_open_is_answered_also_when_nothing_follows_it() -> None:
    """After FIN the server answers everything before it, then ends its side (M40)."""
    session = signed_in()
    session.receive_data(1, OPEN, True, 0.0)
    assert session.data_to_send() == []
    assert closings(session) == 0
    say_opened(session)
    (outgoing,) = session.data_to_send()
    reader = FrameReader(control=False)
    reader.feed(outgoing.data)
    assert isinstance(reader.next_frame(), frames.Opened)
    assert outgoing.end
    assert closings(session) == 1


def test_an_answer_to_a_channel_that_is_gone_is_reported_as_closed() -> None:
    """Otherwise the hub would keep what it loaded for the channel as long as the connection lives."""
    session = signed_in()
    session.receive_data(1, OPEN, False, 0.0)
    session.receive_reset(1, 0, 0.0)
    assert closings(session) == 1
    session.data_to_send()
    say_opened(session)
    assert session.data_to_send() == []
    assert closings(session) == 1
