"""Mailbox, journal and program without a connection: who holds what, and what a cancelled call leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quicmsg.client.inbox import Inbox
from quicmsg.client.journal import Journal, JournalFile
from quicmsg.client.postbox import Postbox
from quicmsg.client.tracking import Tracker
from quicmsg.client.values import State, StateChanged
from quicmsg.errors import ConnectError
from quicmsg.protocol.frames import Entry, Opened
from quicmsg.protocol.mailbox import Mailbox

ME, OTHER = b"d" * 16, b"o" * 16


def entry(seq: int, conversation: str = "@bob") -> Entry:
    return Entry(seq, conversation.encode().ljust(15, b"\0") + bytes([seq]), "bob", OTHER, 0, 0, b"text", 1)


@pytest.fixture
async def postbox(tmp_path: Path) -> AsyncIterator[Postbox]:
    """Of alice, who has two entries waiting of @bob and one of @carol."""
    journal = await Journal.open(tmp_path / "journal.db", user="alice", device=ME)
    postbox = Postbox(journal, Mailbox("alice", ME), Tracker(), lambda: None)
    for name, count in (("@bob", 2), ("@carol", 1)):
        postbox.mailbox.opened(name, Opened(7, 1, count, 0, False, ()))
        for seq in range(1, count + 1):
            postbox.mailbox.delivered(name, entry(seq, name), 0.0)
    postbox.drain()
    yield postbox
    await postbox.settle()
    await journal.close()


async def test_what_one_consumer_holds_no_other_passes(postbox: Postbox) -> None:
    """The second of @bob is for nobody until the first is processed, whoever asks for it."""
    inbox = Inbox(postbox, "alice")
    everything, of_bob = inbox.messages(None), inbox.messages("@bob")
    assert (await anext(everything)).seq == 1
    waiting = asyncio.create_task(anext(of_bob))
    await postbox.settle()
    assert not waiting.done()
    everything.acknowledge()
    assert (await waiting).seq == 2
    await postbox.settle()
    assert postbox.mailbox.conversations["@bob"].position == 1
    inbox.close()
    again = inbox.messages(None)
    held = {((message := await anext(again)).conversation, message.seq) for _ in range(2)}
    assert held == {("@bob", 2), ("@carol", 1)}


async def test_entry_of_a_log_that_was_replaced_is_neither_put_back_nor_counted(postbox: Postbox) -> None:
    """The server's log is another one by now: closing does not fail, and its positions are left alone."""
    inbox = Inbox(postbox, "alice")
    first, second = inbox.messages("@bob"), inbox.messages("@carol")
    assert [(await anext(first)).seq, (await anext(second)).seq] == [1, 1]
    for name in ("@bob", "@carol"):
        postbox.mailbox.opened(name, Opened(8, 1, 0, 0, True, ()))
    first.acknowledge()
    inbox.close()
    postbox.drain()
    await postbox.settle()
    assert [known.position for known in postbox.mailbox.conversations.values()] == [0, 0]
    assert postbox.take(None) is None


async def test_cancelled_while_it_looks_whether_an_entry_is_new(postbox: Postbox) -> None:
    """The entry is not with the program yet: it comes again, to the next who asks."""
    postbox.mailbox.conversations["@bob"].resync_until = 2
    consumer = Inbox(postbox, "alice").messages("@bob")
    waiting = asyncio.create_task(anext(consumer))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5):
        assert [(await anext(consumer)).seq for _ in range(2)] == [1, 2]


async def test_cancelled_caller_leaves_no_message_between_journal_and_line(postbox: Postbox) -> None:
    """What was written as queued, or as cancelled, is so in memory as well, at the latest when closing."""
    waiting = asyncio.create_task(postbox.queue("@bob", b"one", b"1" * 16))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await postbox.settle()
    assert [row.message_id for row in await postbox.journal.read(JournalFile.outbox)] == [b"1" * 16]
    assert b"1" * 16 in postbox.mailbox.outbox
    waiting_ = asyncio.create_task(postbox.cancel(b"1" * 16))
    await asyncio.sleep(0)
    waiting_.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting_
    await postbox.settle()
    assert await postbox.journal.read(JournalFile.outbox) == []
    assert b"1" * 16 not in postbox.mailbox.outbox


@pytest.mark.parametrize("command", ["cancel", "resend"])
async def test_message_answered_while_it_is_cancelled_or_resent(postbox: Postbox, command: str) -> None:
    """The last that is told is what is true: it is stored."""
    sent = await postbox.queue("@dora", b"text", b"2" * 16)
    events = postbox.tracker.subscribe()
    task = asyncio.create_task(getattr(postbox, command)(b"2" * 16))
    for _ in range(2):  # to the command's own task, and in it to the journal
        await asyncio.sleep(0)
    postbox.mailbox.accepted("@dora", b"2" * 16, 1, 1, 0.0)
    postbox.drain()
    await task
    await postbox.settle()
    told = [event.state for event in iter(events.get_nowait, None) if isinstance(event, StateChanged)]
    assert told == [State.STORED]
    assert sent.state is State.STORED


@pytest.mark.parametrize("end", ["answered", "cancelled"])
async def test_message_that_is_over_while_it_is_sent_again(postbox: Postbox, end: str) -> None:
    """Its id is in the outbox when the program sends it again, and not any more once that is written."""
    sent = await postbox.queue("@dora", b"text", b"2" * 16)
    events = postbox.tracker.subscribe()
    again = asyncio.create_task(postbox.queue("@dora", b"text", b"2" * 16))
    ends = asyncio.create_task(postbox.cancel(b"2" * 16)) if end == "cancelled" else None
    for _ in range(2):  # to the command's own task, and in it to the journal
        await asyncio.sleep(0)
    if ends is None:
        postbox.mailbox.accepted("@dora", b"2" * 16, 1, 1, 0.0)
        postbox.drain()
    else:
        await ends
    assert await again is sent
    await postbox.settle()
    told = {event.state for event in iter(events.get_nowait, None) if isinstance(event, StateChanged)}
    assert told == {State.STORED if ends is None else State.CANCELLED}
    assert b"2" * 16 not in postbox.mailbox.outbox


async def test_messages_are_sent_in_the_order_of_their_calls_whoever_made_their_ids(postbox: Postbox) -> None:
    """An id of the program's own has to be looked up, which must not let a later message pass."""
    calls = [postbox.queue("@dora", b"text", message_id) for message_id in (b"2" * 16, None, b"3" * 16, None)]
    sent = await asyncio.gather(*calls)
    line = [message.message_id.hex() for message in postbox.mailbox.outbox.unwritten("@dora", object())]
    assert line == [each.message_id for each in sent]


async def test_one_id_given_twice_at_once_is_one_message(postbox: Postbox) -> None:
    """Two calls race: one of them finds it new."""
    first, second = await asyncio.gather(*(postbox.queue("@dora", b"text", b"2" * 16) for _ in range(2)))
    assert first is second
    assert len(list(postbox.mailbox.outbox.unwritten("@dora", object()))) == 1


async def test_sending_a_stored_message_again_tells_how_far_it_has_come(postbox: Postbox) -> None:
    """ "Delivered" never goes back to "stored", also for who only listens to the events."""
    events = postbox.tracker.subscribe()
    sent = await postbox.queue("@bob", b"one", b"1" * 16)
    postbox.mailbox.accepted("@bob", b"1" * 16, 3, 1, 0.0)
    postbox.drain()
    await postbox.settle()
    postbox.mailbox.conversations["@bob"].delivered_mark = 3
    again = await postbox.queue("@bob", b"one", b"1" * 16)
    assert again is sent
    told = []
    while (event := events.get_nowait()) is not None:
        told += [event.state] if isinstance(event, StateChanged) else []
    assert told == [State.QUEUED, State.STORED, State.DELIVERED]


async def test_closing_ends_all_waiting_for_messages(postbox: Postbox) -> None:
    """Nothing more is heard of them here: who waits must not wait for ever."""
    sent = await postbox.queue("@bob", b"one", b"1" * 16)
    waiting = asyncio.create_task(sent.stored())
    await asyncio.sleep(0)
    postbox.tracker.close()
    with pytest.raises(ConnectError, match="closed"):
        await waiting
    with pytest.raises(ConnectError, match="closed"):
        await sent.delivered()
