"""Small promises of sessions about silence, leaving and notices."""

from __future__ import annotations

from quicmsg import limits
from quicmsg.protocol import events, frames
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.frames import CONTROL
from quicmsg.protocol.heartbeat import Beat, Heartbeat
from quicmsg.protocol.server import ServerSession

DEVICE = b"d" * 16


def signed_in() -> ServerSession:
    session = ServerSession(now=0.0)
    session.connected(channel_binding=b"b" * 32, observed_address="127.0.0.1:1", now=0.0)
    session.welcome(user="alice", device=DEVICE, epoch=7, account_head=0, time_ms=0, now=0.0)
    session.data_to_send()
    return session


def control_frames(session: ServerSession) -> list[frames.Frame]:
    reader = FrameReader(control=True)
    for item in session.data_to_send():
        if item.channel == CONTROL:
            reader.feed(item.data)
    return list(iter(reader.next_frame, None))


def test_extra_pings_do_not_put_off_the_moment_at_which_the_peer_counts_as_gone() -> None:
    """Pings after a move, or on a doubt, come on top of the schedule."""
    heartbeat = Heartbeat(15.0, now=0.0)
    heartbeat.set_active(True, 0.0)
    now, beats = 0.0, []
    while now < 6.0 and Beat.DOWN not in beats:
        now += 0.25
        heartbeat.ping(now)
        if heartbeat.due() <= now:
            beats.append(heartbeat.poll(now))
    assert beats[-1] is Beat.DOWN
    assert now <= limits.PING_INTERVAL_ACTIVE_MAX * (limits.PINGS_MISSED_MAX + 1)


def test_acknowledgement_behind_a_close_is_still_heard() -> None:
    """A client's Close overtakes its last Ack, which is on another channel: the Ack counts."""
    session = signed_in()
    session.receive_data(1, encode(frames.Open("@bob", 7, 0, 0)), False, 1.0)
    session.opened(1, epoch=7, oldest=1, head=1, position=0, reset=False, members=(), now=1.0)
    entry = frames.Entry(1, b"i" * 16, "bob", b"e" * 16, 0, 0, b"hi", 1)
    while (event := session.next_event()) is not None:
        if isinstance(event, events.EntriesWanted):
            session.deliver(1, [entry])
    session.receive_data(CONTROL, encode(frames.Close(0, "")), False, 2.0)
    session.receive_data(1, encode(frames.Ack(1)), True, 2.0)
    assert events.PositionMoved("@bob", 1, 0, True) in list(iter(session.next_event, None))


def test_client_that_says_goodbye_and_stays_is_ended() -> None:
    """Leaving takes CLOSE_TIMEOUT at most."""
    session = signed_in()
    session.receive_data(CONTROL, encode(frames.Close(0, "bye")), False, 2.0)
    assert session.get_timer() == 2.0 + limits.CLOSE_TIMEOUT
    session.handle_timer(2.0 + limits.CLOSE_TIMEOUT)
    assert session.next_event() == events.SessionEnded(0, "bye", True)


def test_conversation_is_noticed_once_until_it_is_opened() -> None:
    """A client that opens nothing costs one frame a conversation, not one a message."""
    session = signed_in()
    for seq in range(1, 100):
        session.advance("@bob", seq, seq)
    assert control_frames(session) == [frames.Notice("@bob", 1, 1)]
    assert session.account_head == 99, "the next Pong tells of the rest"
    session.receive_data(1, encode(frames.Open("@bob", 7, 0, 0)), False, 1.0)
    session.refuse(1, 0x25, "later")
    session.advance("@bob", 100, 100)
    assert control_frames(session) == [frames.Notice("@bob", 100, 100)]
