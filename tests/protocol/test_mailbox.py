"""What a client knows: whose position makes a tick, what a lost channel leaves open, what an epoch ends."""

from __future__ import annotations

import pytest

from quicmsg.errors import ErrorCode, ProtocolError
from quicmsg.protocol import events, frames
from quicmsg.protocol.frames import ChangeEntry, Entry, Kind, MemberEntry
from quicmsg.protocol.mailbox import Mailbox, outbox_row

ME, OTHER = b"m" * 16, b"o" * 16
GROUP = "#team"


def entry(seq: int, *, device: bytes = OTHER, kind: int = Kind.TEXT, body: bytes = b"text") -> Entry:
    return Entry(seq, seq.to_bytes(16, "big"), "bob", device, kind, 0, body, 1)


def verdict(
    head: int, *members: MemberEntry, epoch: int = 7, oldest: int = 1, position: int = 0, reset: bool = False
) -> frames.Opened:
    return frames.Opened(epoch, oldest, head, position, reset, members)


def opened(head: int, *members: MemberEntry, name: str = GROUP) -> Mailbox:
    mailbox = Mailbox("alice", ME)
    mailbox.opened(name, verdict(head, *members))
    reported(mailbox)
    return mailbox


def reported(mailbox: Mailbox) -> list[events.Event]:
    return list(iter(mailbox.next_event, None))


def ticks(mailbox: Mailbox) -> list[tuple[int, int]]:
    """Ranges of seqs that became "delivered"."""
    changed = [event for event in reported(mailbox) if isinstance(event, events.PositionsChanged)]
    return [(e.delivered_from, e.delivered_to) for e in changed if e.delivered_to > e.delivered_from]


def test_tick_waits_for_the_slowest_other_member() -> None:
    """Not for oneself; and never goes back."""
    mailbox = opened(9, MemberEntry("alice", 0, 0), MemberEntry("bob", 5, 0), MemberEntry("carol", 3, 0))
    mailbox.receipts(GROUP, [MemberEntry("carol", 8, 0)])
    assert ticks(mailbox) == [(3, 5)]
    mailbox.receipts(GROUP, [MemberEntry("bob", 4, 0)])
    assert ticks(mailbox) == []
    assert mailbox.conversations[GROUP].delivered_mark == 5


def test_tick_counts_only_as_far_as_the_log_is_known() -> None:
    """Somebody may have joined behind it: carol's position says nothing about whom we have not heard of."""
    mailbox = opened(2, MemberEntry("carol", 2, 0))
    mailbox.receipts(GROUP, [MemberEntry("carol", 4, 0)])
    assert ticks(mailbox) == []
    for seq in (1, 2):
        mailbox.delivered(GROUP, entry(seq), 0.0)
    mailbox.delivered(GROUP, entry(3, kind=Kind.JOINED, body=b"dave"), 0.0)
    mailbox.delivered(GROUP, entry(4), 0.0)
    assert mailbox.conversations[GROUP].delivered_mark == 2
    mailbox.receipts(GROUP, [MemberEntry("dave", 4, 0)])
    assert mailbox.conversations[GROUP].delivered_mark == 4


def test_membership_of_old_entries_does_not_change_the_present_one() -> None:
    """The verdict named the members as of its head; catching up over a LEFT of long ago removes nobody."""
    mailbox = opened(3, MemberEntry("bob", 1, 0), MemberEntry("carol", 3, 0))
    mailbox.delivered(GROUP, entry(1), 0.0)
    mailbox.delivered(GROUP, entry(2, kind=Kind.LEFT, body=b"bob"), 0.0)
    assert mailbox.conversations[GROUP].delivered_mark == 1


def test_receipt_that_overtook_a_return_is_not_forgotten() -> None:
    """Bob left and came back, and his receipt came before the log told so."""
    mailbox = opened(1, MemberEntry("bob", 1, 0))
    mailbox.receipts(GROUP, [MemberEntry("bob", 4, 0)])
    mailbox.delivered(GROUP, entry(1), 0.0)
    mailbox.delivered(GROUP, entry(2, kind=Kind.LEFT, body=b"bob"), 0.0)
    mailbox.delivered(GROUP, entry(3, kind=Kind.JOINED, body=b"bob"), 0.0)
    mailbox.delivered(GROUP, entry(4), 0.0)
    assert mailbox.conversations[GROUP].delivered_mark == 4


def test_member_who_left_holds_no_tick_back() -> None:
    """Who is gone need not have got it."""
    mailbox = opened(2, MemberEntry("bob", 1, 0), MemberEntry("carol", 2, 0))
    for seq in (1, 2):
        mailbox.delivered(GROUP, entry(seq), 0.0)
    reported(mailbox)
    mailbox.delivered(GROUP, entry(3, kind=Kind.LEFT, body=b"bob"), 0.0)
    assert mailbox.conversations[GROUP].delivered_mark == 2


def test_answer_that_comes_after_the_receipts_is_ticked() -> None:
    """The Accepted of an earlier connection got lost; the others have had the message for long."""
    mailbox = opened(1, MemberEntry("bob", 1, 0))
    mailbox.submit(outbox_row(b"i" * 16, GROUP, 0, 0, b"text", 0.0), 0.0)
    assert mailbox.conversations[GROUP].delivered_mark == 1
    mailbox.accepted(GROUP, b"i" * 16, 1, 1, 0.0)
    assert ticks(mailbox) == [(0, 1)]


def test_late_answer_says_nothing_of_reading() -> None:
    """What it reports as read goes into the journal, and a restart would show it: it must be so."""
    mailbox = opened(9, MemberEntry("bob", 9, 2))
    mailbox.submit(outbox_row(b"1" * 16, GROUP, 0, 0, b"text", 0.0), 0.0)
    mailbox.accepted(GROUP, b"1" * 16, 5, 1, 0.0)
    changed = [event for event in reported(mailbox) if isinstance(event, events.PositionsChanged)]
    assert [(event.delivered_to, event.read_from, event.read_to) for event in changed] == [(5, 2, 2)]


def test_second_answer_to_one_message_ticks_nothing_again() -> None:
    """It came back as a log entry, and the new connection's own Send is answered as well."""
    mailbox = opened(1, MemberEntry("bob", 1, 0))
    mailbox.submit(outbox_row(b"i" * 16, GROUP, 0, 0, b"text", 0.0), 0.0)
    mailbox.accepted(GROUP, b"i" * 16, 1, 1, 0.0)
    assert ticks(mailbox) == [(0, 1)]
    mailbox.accepted(GROUP, b"i" * 16, 1, 1, 0.0)
    assert ticks(mailbox) == []


def test_change_that_an_open_channel_was_to_bring_is_written_down_as_open() -> None:
    """After a crash nobody knows what the channel has brought; once both ends have closed it, all is here."""
    mailbox = opened(1, MemberEntry("bob", 1, 0))
    mailbox.delivered(GROUP, entry(1), 0.0)
    reported(mailbox)
    mailbox.changed(ChangeEntry(GROUP, 1, 50), channel_open=True)
    (event,) = reported(mailbox)
    assert isinstance(event, events.ConversationChanged)
    assert event.stale
    assert not mailbox.conversations[GROUP].wants_channel()
    mailbox.brought_all(GROUP)
    (event,) = reported(mailbox)
    assert isinstance(event, events.ConversationChanged)
    assert not event.stale


def test_what_was_taken_from_a_log_that_went_back_is_no_position_in_it() -> None:
    """A backup was copied in by hand, with its epoch: who was busy with entry 2 has not processed the new
    entry 2. (Found by fuzzing: the next Open had a position above `received`, and was refused for ever.)"""
    mailbox = opened(2)
    for seq in (1, 2):
        mailbox.delivered(GROUP, entry(seq), 0.0)
        assert mailbox.take() is not None
    mailbox.processed(GROUP, 1, 7)
    mailbox.opened(GROUP, verdict(1, position=1, reset=True))
    mailbox.processed(GROUP, 2, 7)
    found = mailbox.conversations[GROUP]
    assert (found.position, found.received, found.owed) == (1, 1, 1)


def test_restored_log_starts_again_and_everything_in_it_may_be_known() -> None:
    """Positions, receipts and heads of the old epoch mean nothing; shown messages are recognised by id."""
    mailbox = opened(9, MemberEntry("bob", 9, 9))
    for seq in range(1, 10):
        mailbox.delivered(GROUP, entry(seq), 0.0)
    mailbox.opened(GROUP, verdict(4, MemberEntry("bob", 2, 0), epoch=8, position=3, reset=True))
    found = mailbox.conversations[GROUP]
    assert (found.position, found.received, found.head, found.delivered_mark) == (3, 3, 4, 2)
    assert mailbox.take() is None
    assert found.resync_until >= frames.SEQ_MAX
    mailbox.delivered(GROUP, entry(4), 0.0)
    with pytest.raises(ProtocolError):
        mailbox.delivered(GROUP, entry(6), 0.0)


def test_head_of_a_log_that_was_replaced_is_forgotten() -> None:
    """Heard of in the feed before the restore, never opened: it must not be waited for."""
    mailbox = Mailbox("alice", ME)
    mailbox.changed(ChangeEntry(GROUP, 7, 50), channel_open=False)
    mailbox.opened(GROUP, verdict(0, epoch=8))
    assert not mailbox.conversations[GROUP].wants_channel()


def test_change_numbers_of_another_epoch_mean_nothing() -> None:
    """Otherwise a lost Notice would not be noticed until the numbers have grown as large again."""
    mailbox = Mailbox("alice", ME)
    mailbox.synced(7, 500)
    mailbox.welcomed(7)
    assert mailbox.account_head == 500
    mailbox.welcomed(8)
    assert mailbox.account_head == 0


def test_private_reading_does_not_become_public_by_reading_something_older() -> None:
    """And never goes beyond what was processed."""
    mailbox = opened(5, MemberEntry("bob", 5, 0))
    for seq in range(1, 6):
        mailbox.delivered(GROUP, entry(seq), 0.0)
        mailbox.take()
    mailbox.processed(GROUP, 4, 7)
    assert mailbox.read(GROUP, 9, public=False) == 4
    assert mailbox.read(GROUP, 2, public=True) == 4
    assert not mailbox.conversations[GROUP].read_public


def test_position_of_an_older_epoch_is_not_taken() -> None:
    """The program was done with an entry of a log that has been replaced meanwhile."""
    mailbox = opened(5, MemberEntry("bob", 0, 0))
    mailbox.delivered(GROUP, entry(1), 0.0)
    mailbox.opened(GROUP, verdict(5, epoch=8, reset=True))
    mailbox.processed(GROUP, 1, 7)
    assert mailbox.conversations[GROUP].position == 0


def test_refusal_rejects_what_waits_and_asks_for_nothing_more() -> None:
    """Each message once, with the reason; the conversation wants no channel until there is news."""
    mailbox = opened(1, MemberEntry("bob", 1, 0))
    for number in (1, 2):
        mailbox.submit(outbox_row(bytes([number]) * 16, GROUP, 0, 0, b"text", 0.0), 0.0)
    mailbox.refused(GROUP, ErrorCode.UNKNOWN, "gone", 0.0)
    rejected = [event for event in reported(mailbox) if isinstance(event, events.MessageRejected)]
    assert [event.message_id[0] for event in rejected] == [1, 2]
    assert not mailbox.conversations[GROUP].wants_channel()
    mailbox.changed(ChangeEntry(GROUP, 3, 9), channel_open=False)
    assert mailbox.conversations[GROUP].wants_channel()


def test_new_device_in_a_group_that_its_user_joined_late_starts_where_the_account_stands() -> None:
    """Both ends of the channel begin behind the account's position: else the entries before it, which nobody
    delivers, are waited for for ever."""
    mailbox = Mailbox("alice", ME)
    mailbox.opened(
        GROUP, verdict(5, MemberEntry("alice", 5, 0), MemberEntry("bob", 5, 0), oldest=3, position=5)
    )
    found = mailbox.conversations[GROUP]
    assert (found.position, found.received) == (5, 5)
    mailbox.delivered(GROUP, entry(6), 0.0)
    assert found.received == 6


def test_own_entry_counts_for_the_server_once_the_journal_has_it() -> None:
    """A message was stored, and cancelled meanwhile: its answer is all that tells of it. If the server
    counted it as ours before it is on our disk, a crash would hide it from this device for ever."""
    mailbox = opened(0)
    found = mailbox.conversations[GROUP]
    mailbox.accepted(GROUP, b"1" * 16, 1, 1, 0.0)
    mailbox.accepted(GROUP, b"2" * 16, 2, 1, 0.0)
    stored = [event for event in reported(mailbox) if isinstance(event, events.MessageStored)]
    assert [event.position for event in stored] == [1, 2]
    assert (found.position, found.received) == (0, 2)
    mailbox.own_kept(GROUP, 1, 7)
    assert found.position == 1
    mailbox.own_kept(GROUP, 2, 8)
    assert found.position == 1, "of another log"
    mailbox.own_kept(GROUP, 2, 7)
    assert found.position == 2


def test_own_entries_behind_one_that_is_being_processed_wait_for_it() -> None:
    """The position is contiguous: the program's entry first, ours with it."""
    mailbox = opened(1)
    found = mailbox.conversations[GROUP]
    mailbox.delivered(GROUP, entry(1), 0.0)
    assert mailbox.take() is not None
    mailbox.accepted(GROUP, b"2" * 16, 2, 1, 0.0)
    mailbox.own_kept(GROUP, 2, 7)
    assert found.position == 0
    mailbox.processed(GROUP, mailbox.position_after(GROUP, 1), 7)
    assert found.position == 2
