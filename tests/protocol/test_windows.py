"""What is in flight is bounded, channel by channel, and every byte is credited once."""

from __future__ import annotations

from conversing import client, drain, entry, message_id, open_verdict, said, send, server
from generated_frames import CONVERSATION
from hypothesis import given, settings
from hypothesis import strategies as st

from quicmsg import limits
from quicmsg.errors import ErrorCode
from quicmsg.protocol import events, frames
from quicmsg.protocol.budget import Tokens
from quicmsg.protocol.channels import Covered
from quicmsg.protocol.codec import encode
from quicmsg.protocol.mailbox import outbox_row
from quicmsg.protocol.server import ServerSession


def deliver_all(session: ServerSession, body: bytes) -> int:
    """Answer every EntriesWanted from an endless log; how many entries went out."""
    while wanted := [event for event in drain(session) if isinstance(event, events.EntriesWanted)]:
        for event in wanted:
            after = event.after
            session.deliver(event.channel, [entry(after + n + 1, body) for n in range(event.limit)])
    return sum(len(found) for found in said(session).values())


# ---- deliver window ----------------------------------------------------------------------------


def test_deliver_window_is_bounded_in_messages_and_moves_with_acks() -> None:
    """A slow reader costs a window, not its backlog."""
    session = server({1: "@bob"}, head=10_000)
    assert deliver_all(session, b"hi") == limits.DELIVER_WINDOW_MESSAGES
    session.receive_data(1, encode(frames.Ack(10)), False, 0.0)
    assert deliver_all(session, b"hi") == 10
    session.advance("@bob", 10_001, 1)
    assert deliver_all(session, b"hi") == 0


def test_deliver_window_is_bounded_in_bytes() -> None:
    """Big bodies fill it sooner; one of them may go over it."""
    session = server({1: "@bob"}, head=10_000)
    body = bytes(limits.BODY_SIZE_MAX)
    whole = limits.DELIVER_WINDOW_SIZE // limits.BODY_SIZE_MAX
    first = deliver_all(session, body)
    assert whole <= first <= limits.DELIVER_WINDOW_MESSAGES
    assert first * limits.BODY_SIZE_MAX < limits.DELIVER_WINDOW_SIZE + limits.BODY_SIZE_MAX
    session.receive_data(1, encode(frames.Ack(3)), False, 0.0)
    assert deliver_all(session, body) == 3


def test_a_gap_is_never_delivered() -> None:
    """What the store answers late, or from a wrong place, is not written."""
    session = server({1: "@bob"}, head=5)
    drain(session)
    session.deliver(1, [entry(1), entry(3)])
    assert [frame.seq for frame in said(session)[1] if isinstance(frame, frames.Deliver)] == [1]
    assert drain(session) == [events.EntriesWanted(1, "@bob", 1, limits.DELIVER_WINDOW_MESSAGES - 1)]


# ---- submit window and rate --------------------------------------------------------------------


def submitted(session: ServerSession) -> list[int]:
    return [event.channel for event in drain(session) if isinstance(event, events.MessageSubmitted)]


def test_submit_window_pauses_only_its_channel_and_resumes_in_order() -> None:
    """A flood in one conversation is held back by flow control; another one is not delayed."""
    session = server({1: "@bob", 2: "#team"})
    flood = b"".join(send(number) for number in range(200))
    session.receive_data(1, flood, False, 0.0)
    assert len(submitted(session)) == limits.SUBMIT_WINDOW_MESSAGES
    credited = dict(session.take_consumed())[1]
    assert credited == limits.SUBMIT_WINDOW_MESSAGES * len(send(0))
    session.receive_data(2, send(1), False, 0.0)
    assert submitted(session) == [2]
    order = []
    for number in range(200):
        session.accept(1, message_id(number), number + 1, 1, 0.0)
        order += [e.message_id for e in drain(session) if isinstance(e, events.MessageSubmitted)]
    assert order == [message_id(n) for n in range(limits.SUBMIT_WINDOW_MESSAGES, 200)]
    assert credited + dict(session.take_consumed())[1] == len(flood)


def test_submit_window_is_bounded_in_bytes_too() -> None:
    """Bodies of the greatest size fill it before the count does."""
    session = server({1: "@bob"})
    for number in range(limits.SUBMIT_WINDOW_MESSAGES):
        session.receive_data(1, send(number, bytes(limits.BODY_SIZE_MAX)), False, 0.0)
    assert len(submitted(session)) == limits.SUBMIT_WINDOW_SIZE // limits.BODY_SIZE_MAX
    session.reject(1, message_id(0), ErrorCode.TOO_BIG, "", 0.0)
    assert len(submitted(session)) == 1


def test_client_keeps_to_the_submit_window() -> None:
    """It never has more unanswered than the server reads."""
    session, mailbox = client()
    for number in range(200):
        mailbox.submit(outbox_row(message_id(number), "@bob", 0, 0, b"hi", 0.0), 0.0)
    session.service(0.0)
    sends = [frame for frame in said(session)[1] if isinstance(frame, frames.Send)]
    assert len(sends) == limits.SUBMIT_WINDOW_MESSAGES
    session.receive_data(1, encode(frames.Opened(1, 1, 0, 0, False, ())), False, 0.0)
    session.receive_data(1, encode(frames.Accepted(message_id(0), 1, 1)), False, 0.0)
    (next_one,) = said(session)[1]
    assert isinstance(next_one, frames.Send)
    assert next_one.message_id == message_id(limits.SUBMIT_WINDOW_MESSAGES)


def test_token_bucket_reads_a_flood_more_slowly_and_refuses_nothing() -> None:
    """Above SEND_RATE a session waits; its messages are taken when there are tokens again."""
    session = server({1: "@bob"})
    now, taken = 0.0, 0
    session.budget.sends.spend(limits.SEND_BURST - 3, now)
    session.receive_data(1, b"".join(send(number) for number in range(10)), False, now)
    while taken < 10:
        fresh = len(submitted(session))
        taken += fresh
        if taken < 10:
            due = session.get_timer()
            assert due is not None
            assert now <= due <= now + 2 / limits.SEND_RATE
            now = due + limits.TIMER_LATENESS / 1000
            session.handle_timer(now)
    assert now >= 6 / limits.SEND_RATE


def test_timer_of_a_starved_channel_never_stands_still() -> None:
    """Called exactly when it is due, whatever the clock shows: a token is there."""
    for start in (0.1, 1234.5678, 1e6 + 0.123, 2.0**27 - 1e-7):
        session = server({1: "@bob"})
        session.budget.sends = Tokens(limits.SEND_RATE, 1.5, start)
        session.receive_data(1, send(0) + send(1), False, start)
        assert len(submitted(session)) == 1
        due = session.get_timer()
        assert due is not None
        session.heartbeat.received(due)
        session.handle_timer(due)
        assert len(submitted(session)) == 1, f"nothing was read at {due}"


# ---- violations --------------------------------------------------------------------------------


def test_ack_beyond_what_was_sent_ends_only_that_channel() -> None:
    """Positions are what ticks are made of: a false one is not taken, and costs nobody else."""
    session = server({1: "@bob", 2: "#team"}, head=5)
    for frame in (frames.Ack(1), frames.Read(1, True)):
        session.receive_data(1, encode(frames.Ack(0)), False, 0.0)
        drain(session)
        session.receive_data(1, encode(frame) + send(1), False, 0.0)
        assert drain(session) == [events.ChannelClosed(1, "@bob")]
        (outgoing,) = session.data_to_send()
        assert (outgoing.channel, outgoing.reset) == (1, ErrorCode.ACK_BEYOND)
        session.receive_reset(1, 0, 0.0)
        session.receive_data(1, encode(frames.Open("@bob", 0, 0, 0)), False, 0.0)
        open_verdict(session, 1, head=5)
        session.data_to_send()
    session.receive_data(2, send(1), False, 0.0)
    assert 2 in submitted(session)


def test_conversation_that_is_open_is_not_opened_twice() -> None:
    """One conversation, one order: the second channel is aborted, the first goes on."""
    session = server({1: "@bob"})
    session.receive_data(2, encode(frames.Open("@bob", 0, 0, 0)), False, 0.0)
    (outgoing,) = session.data_to_send()
    assert (outgoing.channel, outgoing.reset) == (2, ErrorCode.UNEXPECTED)
    session.receive_data(1, send(1), False, 0.0)
    assert submitted(session) == [1]


def test_more_channels_than_allowed_are_refused() -> None:
    """The server's own bound, whatever the transport grants."""
    session = server({number: f"@u{number}" for number in range(1, limits.SERVER_CHANNELS_MAX + 1)})
    number = limits.SERVER_CHANNELS_MAX + 1
    data = encode(frames.Open("@one", 0, 0, 0))
    session.receive_data(number, data, False, 0.0)
    (outgoing,) = session.data_to_send()
    assert (outgoing.channel, outgoing.reset) == (number, ErrorCode.LIMIT)
    assert dict(session.take_consumed())[number] == len(data)


def test_client_takes_no_entry_with_a_gap_before_it() -> None:
    """Nobody sees the third message before the second: the channel is aborted and opened again."""
    session, mailbox = client()
    mailbox.conversation("@bob")
    session.service(0.0)
    session.receive_data(1, encode(frames.Opened(1, 1, 3, 0, False, ())), False, 0.0)
    session.data_to_send()
    third = entry(3)
    fields = [getattr(third, name) for name in third.__struct_fields__]
    session.receive_data(1, encode(frames.Deliver(*fields)), False, 0.0)
    (outgoing,) = session.data_to_send()
    assert (outgoing.channel, outgoing.reset) == (1, ErrorCode.UNEXPECTED)
    assert mailbox.take() is None
    session.handle_timer(limits.REOPEN_DELAY)
    assert said(session)[2] == [frames.Open("@bob", 1, 0, 0)]


def test_bytes_behind_a_refused_open_are_credited() -> None:
    """They were not read, and never will be: the connection's window must not shrink by them."""
    session = server({})
    data = encode(frames.Open("@bob", 0, 0, 0)) + send(1) + send(2)
    session.receive_data(1, data, False, 0.0)
    assert dict(session.take_consumed())[1] == len(data) - 2 * len(send(1))
    session.refuse(1, ErrorCode.UNKNOWN, "")
    assert session.take_consumed() == [(1, 2 * len(send(1)))]


# ---- Accepted instead of Deliver ---------------------------------------------------------------


def test_what_a_channel_accepted_is_covered_without_delivery() -> None:
    """Both ends pass over own entries, in whatever order acceptance and delivery come."""
    for order in ((2, 3), (3, 2)):
        covered = Covered(0)
        for seq in order:
            covered.skip(seq)
        assert covered.value == 0
        covered.reach(1)
        assert covered.value == 3
    covered.skip(5)
    covered.reset(1)
    assert covered.value == 1
    covered.reach(4)
    assert covered.value == 5


def test_server_does_not_deliver_what_it_accepted_and_takes_an_ack_of_it() -> None:
    """The client knows it by its Accepted."""
    session = server({1: "@bob"})
    session.receive_data(1, send(1), False, 0.0)
    session.accept(1, message_id(1), 1, 1, 0.0)
    session.advance("@bob", 1, 1)
    session.advance("@bob", 2, 2)
    assert [event.after for event in drain(session) if isinstance(event, events.EntriesWanted)] == [1]
    session.deliver(1, [entry(2)])
    assert [type(frame) for frame in said(session)[1]] == [frames.Accepted, frames.Deliver]
    session.receive_data(1, encode(frames.Ack(2)), False, 0.0)
    assert events.PositionMoved("@bob", 2, 0, True) in drain(session)


def test_client_passes_over_its_own_entries_and_acknowledges_only_what_was_sent() -> None:
    """Accepted 2 before Deliver 1: nothing is acknowledged until 1 is processed, then both are."""
    session, mailbox = client()
    mailbox.submit(outbox_row(message_id(9), "@bob", 0, 0, b"own", 0.0), 0.0)
    session.service(0.0)
    session.receive_data(1, encode(frames.Opened(1, 1, 0, 0, False, ())), False, 0.0)
    session.receive_data(1, encode(frames.Accepted(message_id(9), 2, 1)), False, 0.0)
    one = entry(1)
    session.receive_data(
        1, encode(frames.Deliver(*(getattr(one, f) for f in one.__struct_fields__))), False, 0
    )
    session.data_to_send()
    taken = mailbox.take()
    assert taken == ("@bob", one)
    mailbox.processed("@bob", mailbox.position_after("@bob", 1), 1)
    session.service(0.0)
    assert said(session) == {1: [frames.Ack(2)]}


def test_a_second_verdict_on_a_channel_is_refused() -> None:
    """Each would move the position, so make room in the window, so fill this device's memory by one window
    more. (Found by fuzzing the client with a hostile server's frames.)"""
    session, mailbox = client()
    mailbox.submit(outbox_row(message_id(9), "@bob", 0, 0, b"own", 0.0), 0.0)
    session.service(0.0)
    session.receive_data(1, encode(frames.Opened(1, 1, 0, 0, False, ())), False, 0.0)
    session.data_to_send()
    session.receive_data(1, encode(frames.Opened(1, 65, 99, 64, False, ())), False, 0.0)
    assert [(item.channel, item.reset) for item in session.data_to_send()] == [(1, ErrorCode.UNEXPECTED)]
    assert mailbox.conversations["@bob"].position == 0


def test_an_entry_before_the_verdict_ends_the_channel() -> None:
    """Nobody knows yet where the log begins for us; the verdict would make room for a second window."""
    session, mailbox = client()
    mailbox.conversation("@bob")
    session.service(0.0)
    session.data_to_send()
    early = entry(1)
    fields = (getattr(early, field) for field in early.__struct_fields__)
    session.receive_data(1, encode(frames.Deliver(*fields)), False, 0.0)
    assert [(item.channel, item.reset) for item in session.data_to_send()] == [(1, ErrorCode.UNEXPECTED)]
    assert mailbox.waiting() == 0


# ---- the client's channels ---------------------------------------------------------------------


def test_least_recently_used_channel_makes_room() -> None:
    """CHANNELS_MAX are open; the idle one that was used least recently is ended for the next."""
    session, mailbox = client()
    for number in range(1, limits.CHANNELS_MAX + 1):
        mailbox.conversation(f"@u{number}")
    session.service(0.0)
    for number in range(1, limits.CHANNELS_MAX + 1):
        session.receive_data(number, encode(frames.Opened(1, 1, 0, 0, False, ())), False, float(number))
    session.receive_data(1, encode(frames.Receipt((frames.MemberEntry("bob", 0, 0),))), False, 200.0)
    session.data_to_send()
    mailbox.conversation("@next")
    session.service(201.0)
    out = {item.channel: item for item in session.data_to_send()}
    assert sorted(out) == [2, limits.CHANNELS_MAX + 1]
    assert out[2].end
    session.receive_data(2, b"", True, 202.0)
    mailbox.submit(outbox_row(message_id(1), "@u2", 0, 0, b"hi", 202.0), 202.0)
    session.service(202.0)
    out = {item.channel: item for item in session.data_to_send()}
    assert sorted(out) == [3, limits.CHANNELS_MAX + 2], (
        "and it is opened again when there is something to say"
    )


def test_busy_channels_are_never_ended_for_others() -> None:
    """All of them wait for answers: the next conversation waits too."""
    session, mailbox = client()
    for number in range(1, limits.CHANNELS_MAX + 1):
        mailbox.conversation(f"@u{number}")
    session.service(0.0)
    session.data_to_send()
    mailbox.conversation("@next")
    session.service(1.0)
    assert session.data_to_send() == []
    session.receive_data(7, encode(frames.Opened(1, 1, 0, 0, False, ())), False, 2.0)
    assert sorted(item.channel for item in session.data_to_send()) == [7, limits.CHANNELS_MAX + 1]


def test_aborted_channels_are_not_remembered_for_ever() -> None:
    """A client that opens one bad channel after the other costs a bounded number of numbers; late bytes of
    the recent ones are still dropped. (The transport tells no end of a stream that we aborted.)"""
    session = server({})
    for number in range(1, 3 * limits.DEAD_CHANNELS_MAX):
        session.receive_data(number, b"\0\0\0\0", False, 0.0)
        session.data_to_send()
    assert len(session._dead) == limits.DEAD_CHANNELS_MAX
    session.receive_data(number, b"late", False, 0.0)
    assert session.data_to_send() == []
    assert list(session._channels) == [0]


def test_data_of_unknown_channels_is_dropped_and_credited() -> None:
    """Late bytes of a channel that we closed: they cost the connection's window nothing."""
    session, _ = client()
    session.take_consumed()
    session.receive_data(77, b"whatever", False, 0.0)
    session.receive_data(77, b"more", True, 0.0)
    assert session.take_consumed() == [(77, 12)]
    assert drain(session)[-1:] != [events.SessionEnded]


# ---- credit ------------------------------------------------------------------------------------

GARBAGE = st.sampled_from(
    (
        b"\x00\x00\x00\x02\xc1\xc1",
        b"\x00\x00\x00\x06\x92\x26\xc6\xff\xff\xff",
        b"\xff\xff\xff\xff",
        encode(frames.Ack(9)),
    )
)


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.lists(st.one_of(CONVERSATION.map(encode), GARBAGE, st.just(send(1))), max_size=8),
    st.lists(st.integers(1, 60), max_size=20),
    st.booleans(),
)
def test_credit_adds_up_to_all_bytes(pieces: list[bytes], sizes: list[int], refused: bool) -> None:
    """Taken, skipped, malformed, of an aborted or refused channel: every byte is credited exactly once."""
    session = server({1: "@bob"}, head=1)
    stream = b"".join(pieces)
    start = 0
    for size in [*sizes, len(stream)]:
        session.receive_data(1, stream[start : start + size], False, 0.0)
        start += size
    for event in drain(session):
        if isinstance(event, events.MessageSubmitted):
            session.accept(1, event.message_id, 1, 1, 0.0)
        elif isinstance(event, events.FetchRequested):
            session.page(1, event.ref, [], 0.0)
    kept = session._channels[1].reader.buffered if 1 in session._channels else 0
    if refused:
        session.refuse(1, ErrorCode.UNKNOWN, "")
        kept = 0
    assert sum(size for channel, size in session.take_consumed() if channel == 1) == len(stream) - kept
