"""Every state of a session x every frame: it never raises, never spins, and says nothing out of turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from generated_frames import CONTROL as CONTROL_FRAMES
from generated_frames import CONVERSATION as CONVERSATION_FRAMES
from generated_frames import CONVERSATIONS, IDS
from hypothesis import given, settings
from hypothesis import strategies as st

from quicmsg import limits
from quicmsg.errors import ErrorCode, LocalProtocolError
from quicmsg.protocol import events, frames
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.codec import encode
from quicmsg.protocol.frames import CONTROL, MemberEntry
from quicmsg.protocol.mailbox import Mailbox, outbox_row
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import Session, SessionState

SPINS_MAX: Final = 50
HELLO = encode(frames.Hello(1, 1, "test", (), True))
AUTHENTICATE = encode(frames.Authenticate("alice", bytes(32), bytes(64), "", ""))
OPEN = encode(frames.Open("@bob", 1, 0, 0))
SEND = encode(frames.Send(IDS[0], 0, 0, b"hi"))
OPENED_CHANNEL, OPENING_CHANNEL, NEW_CHANNEL, ENDED_CHANNEL, ABORTED_CHANNEL = 1, 2, 3, 4, 5
WELCOME = encode(frames.Welcome(1, "alice", IDS[3], 1, 0, "192.0.2.1:1", 5, limits.BODY_SIZE_MAX, ()))


def frames_on(channels: tuple[int, ...]) -> st.SearchStrategy[list[tuple[int, bytes, bool]]]:
    """What a peer says: valid frames of the right or the wrong side, on any of these channels."""
    control = st.tuples(st.just(CONTROL), CONTROL_FRAMES.map(encode), st.just(False))
    others = st.tuples(
        st.sampled_from(channels), CONVERSATION_FRAMES.map(encode), st.sampled_from((False, False, True))
    )
    return st.lists(st.one_of(control, others, others), min_size=1, max_size=8)


def drain(session: Session) -> list[events.Event]:
    return list(iter(session.next_event, None))


def check_timers(session: Session, handle: Callable[[float], None]) -> None:
    """Called when they want to be, the timers lead on: to a later time, or to the end."""
    at, calls = float("-inf"), 0
    for _ in range(200):
        due = session.get_timer()
        if due is None:
            return
        calls = calls + 1 if due <= at else 0
        assert calls < SPINS_MAX, f"the timer stands still at {due}"
        at = max(at, due)
        handle(at)
        drain(session)
        session.data_to_send()


# ---- server ------------------------------------------------------------------------------------


def server(state: SessionState) -> ServerSession:
    session = ServerSession(now=0.0)
    if state is SessionState.CONNECTING:
        return session
    session.connected(channel_binding=bytes(32), observed_address="192.0.2.1:1", now=0.0)
    if state is SessionState.SIGNING_IN:
        return session
    session.welcome(user="alice", device=IDS[3], epoch=1, account_head=0, time_ms=0, now=0.0)
    for channel, name in ((OPENED_CHANNEL, "@bob"), (OPENING_CHANNEL, "#team"), (ENDED_CHANNEL, "@carol")):
        session.receive_data(channel, encode(frames.Open(name, 1, 0, 0)), channel == ENDED_CHANNEL, 0.0)
    session.receive_data(ABORTED_CHANNEL, SEND, False, 0.0)
    session.opened(
        1, epoch=1, oldest=1, head=3, position=0, reset=False, members=[MemberEntry("bob", 0, 0)], now=0.0
    )
    session.deliver(1, [frames.Entry(1, IDS[1], "bob", IDS[2], 0, 0, b"one", 1)])
    if state is SessionState.CLOSED:
        session.close(now=0.0)
    drain(session)
    session.data_to_send()
    session.take_close()
    session.take_consumed()
    assert session.state is state
    return session


def answer(session: ServerSession, event: Any, now: float) -> None:
    """What a hub might answer at once."""
    match event:
        case events.OpenRequested():
            session.opened(
                event.channel, epoch=1, oldest=1, head=2, position=0, reset=False, members=[], now=now
            )
        case events.MessageSubmitted():
            session.accept(event.channel, event.message_id, 1, 1, now)
        case events.EntriesWanted():
            session.deliver(event.channel, [])
        case events.FetchRequested():
            session.page(event.channel, event.ref, [], now)
        case events.SyncRequested():
            session.sync_page(1, [], 0, more=False)
        case events.GroupRequested() | events.LinkRequested():
            session.done(event.ref)
        case _:
            pass


@pytest.mark.parametrize("state", [SessionState.SIGNING_IN, SessionState.UP, SessionState.CLOSED])
@settings(max_examples=200, deadline=None, database=None)
@given(said=frames_on((1, 2, 3, 4, 5, 900)), answering=st.booleans())
def test_server_session_takes_any_frame_in_any_state(
    state: SessionState, said: list[tuple[int, bytes, bool]], answering: bool
) -> None:
    """Receiving never raises; before sign-in nothing is asked of the hub, after the end nothing at all."""
    session = server(state)
    reported: list[events.Event] = []
    for number, (channel, data, end) in enumerate(said):
        was_closed = session.state is SessionState.CLOSED
        session.receive_data(channel, data, end, number / 10)
        fresh = drain(session)
        assert not (was_closed and fresh)
        reported += fresh
        for event in fresh if answering else []:
            answer(session, event, number / 10)
        reported += drain(session)
        session.data_to_send()
    if state is SessionState.SIGNING_IN:
        assert all(isinstance(e, events.SignInRequested | events.SessionEnded) for e in reported)
    ends = [index for index, event in enumerate(reported) if isinstance(event, events.SessionEnded)]
    assert ends in ([], [len(reported) - 1]), "the end is the last event, once"
    if state is SessionState.CLOSED:
        assert (reported, session.data_to_send(), session.get_timer()) == ([], [], None)
    check_timers(session, session.handle_timer)


def test_data_before_the_handshake_is_our_own_bug() -> None:
    """The transport says `connected` first: anything else is not the peer's fault."""
    for session in (server(SessionState.CONNECTING), client()[0]):
        with pytest.raises(LocalProtocolError):
            session.receive_data(0, HELLO, False, 0.0)
        assert drain(session) == []
        check_timers(session, session.handle_timer)
        assert session.state is SessionState.CLOSED


def test_what_was_parked_comes_out_in_order_after_the_welcome() -> None:
    """The first flight may carry messages; none of it is acted on before the sign-in is good."""
    session = server(SessionState.SIGNING_IN)
    session.receive_data(1, OPEN[:3], False, 0.0)
    session.receive_data(2, encode(frames.Open("#team", 0, 0, 0)), False, 0.0)
    session.receive_data(0, HELLO + AUTHENTICATE, False, 0.0)
    session.receive_data(1, OPEN[3:] + SEND, False, 0.0)
    session.receive_data(1, encode(frames.Send(IDS[1], 0, 0, b"two")), True, 0.0)
    assert [type(event) for event in drain(session)] == [events.SignInRequested]
    assert all(channel == CONTROL for channel, _ in session.take_consumed())
    session.welcome(user="alice", device=IDS[3], epoch=1, account_head=0, time_ms=0, now=1.0)
    assert drain(session) == [
        events.OpenRequested(2, "#team", 0, 0),
        events.OpenRequested(1, "@bob", 1, 0),
    ]
    session.opened(1, epoch=1, oldest=1, head=0, position=0, reset=False, members=[], now=1.0)
    submitted = [event for event in drain(session) if isinstance(event, events.MessageSubmitted)]
    assert [(event.channel, event.body) for event in submitted] == [(1, b"hi"), (1, b"two")]


@pytest.mark.parametrize(
    ("channel", "piece", "taken"),
    [
        (1, bytes(1024), limits.PARKED_SIZE_MAX // 1024),
        (1, b"x", limits.PARKED_PIECES_MAX),
        (0, encode(frames.Ping(1)), limits.SIGN_IN_SIZE_MAX // len(encode(frames.Ping(1)))),
    ],
)
def test_what_is_parked_for_a_stranger_is_bounded(channel: int, piece: bytes, taken: int) -> None:
    """Bytes, pieces and the control channel: a stranger cannot fill the memory."""
    session = server(SessionState.SIGNING_IN)
    for _ in range(taken):
        session.receive_data(channel, piece, False, 0.0)
        assert session.state is SessionState.SIGNING_IN
    session.receive_data(channel, piece, False, 0.0)
    (ended,) = drain(session)
    assert isinstance(ended, events.SessionEnded)
    assert (ended.code, ended.remote) == (ErrorCode.LIMIT, False)


def test_stranger_that_says_nothing_is_dropped_in_time() -> None:
    """SIGN_IN_TIMEOUT from the handshake; what it says meanwhile gains nothing."""
    session = server(SessionState.SIGNING_IN)
    session.receive_data(0, HELLO, False, 4.0)
    assert session.get_timer() == limits.SIGN_IN_TIMEOUT
    session.handle_timer(limits.SIGN_IN_TIMEOUT)
    (ended,) = drain(session)
    assert isinstance(ended, events.SessionEnded)
    assert ended.code == ErrorCode.TIMEOUT


def test_welcome_that_comes_too_late_changes_nothing() -> None:
    """The store answers a sign-in after the connection has ended: nobody is signed in."""
    session = server(SessionState.SIGNING_IN)
    session.receive_data(0, HELLO + AUTHENTICATE, False, 0.0)
    session.connection_lost(0, "gone", 0.5)
    drain(session)
    session.welcome(user="alice", device=IDS[3], epoch=1, account_head=0, time_ms=0, now=1.0)
    session.advance("@bob", 1, 1)
    assert (session.user, session.state, drain(session)) == ("", SessionState.CLOSED, [])
    assert session.data_to_send() == []


# ---- client ------------------------------------------------------------------------------------


def client() -> tuple[ClientSession, Mailbox]:
    mailbox = Mailbox("alice", IDS[3])
    for number, name in enumerate(CONVERSATIONS):
        mailbox.submit(outbox_row(IDS[number], name, 0, 0, b"hello", 0.0), 0.0)

    def sign(binding: bytes) -> frames.Authenticate:
        return frames.Authenticate("alice", bytes(32), bytes(64), "", "")

    session = ClientSession(mailbox, sign=sign, agent="test", foreground=True, now=0.0)
    return session, mailbox


def signed_in_client(state: SessionState) -> tuple[ClientSession, Mailbox]:
    """Conversation 1 is opened, 2 is asked for, 3 was refused and reset, the rest is unknown."""
    session, mailbox = client()
    session.connected(channel_binding=bytes(32), observed_address="192.0.2.1:1", now=0.0)
    if state is not SessionState.SIGNING_IN:
        session.receive_data(CONTROL, WELCOME, False, 0.0)
        session.receive_data(1, encode(frames.Opened(1, 1, 2, 0, False, ())), False, 0.0)
        session.receive_reset(3, ErrorCode.BUSY, 0.0)
    if state is SessionState.CLOSED:
        session.close(now=0.0)
    for source in (session, mailbox):
        list(iter(source.next_event, None))
    session.data_to_send()
    assert session.state is state
    return session, mailbox


@pytest.mark.parametrize("state", [SessionState.SIGNING_IN, SessionState.UP, SessionState.CLOSED])
@settings(max_examples=200, deadline=None, database=None)
@given(said=frames_on((1, 2, 3, 4, 900)), processing=st.booleans())
def test_client_session_takes_any_frame_in_any_state(
    state: SessionState, said: list[tuple[int, bytes, bool]], processing: bool
) -> None:
    """A server with a bug, or a bad one, costs a channel or the connection, and never a message."""
    session, mailbox = signed_in_client(state)
    stored: set[bytes] = set()
    for number, (channel, data, end) in enumerate(said):
        now = number / 10
        was_closed = session.state is SessionState.CLOSED
        session.receive_data(channel, data, end, now)
        fresh = drain(session)
        assert not (was_closed and fresh)
        ends = [index for index, event in enumerate(fresh) if isinstance(event, events.SessionEnded)]
        assert ends in ([], [len(fresh) - 1])
        while (event := mailbox.next_event()) is not None:
            if isinstance(event, events.MessageStored):
                stored.add(event.message_id)
        while processing and (taken := mailbox.take()) is not None:
            name, entry = taken
            at = mailbox.position_after(name, entry.seq)
            mailbox.processed(name, at, mailbox.conversations[name].epoch)
        session.data_to_send()
        for found in mailbox.conversations.values():
            assert found.position <= found.received
    for number in range(len(CONVERSATIONS)):
        assert (IDS[number] in mailbox.outbox) != (IDS[number] in stored), "neither lost nor stored twice"
    if state is SessionState.CLOSED:
        assert (session.data_to_send(), session.get_timer()) == ([], None)
    check_timers(session, session.handle_timer)
