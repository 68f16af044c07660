"""What a client knows when it starts again, from the journal of its former life."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quicmsg.client.bookkeeper import Bookkeeper
from quicmsg.client.journal import (
    Conversation,
    JournalFile,
    Left,
    Positions,
    Processed,
    Queue,
    ReadUpTo,
    Reset,
    Stored,
)
from quicmsg.client.values import State
from quicmsg.limits import SEQ_MAX
from quicmsg.protocol import events
from quicmsg.protocol.frames import Entry, MemberEntry, Opened
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.outbox import OutboxMessage

ME, BOB = b"d" * 16, b"b" * 16


def entry(seq: int) -> Entry:
    return Entry(seq, bytes([seq]) * 16, "bob", BOB, 0, 0, b"text", 1)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[JournalFile]:
    file = JournalFile(tmp_path / "journal.db", user="alice", device=ME)
    yield file
    file.close()


class Silent(Bookkeeper):
    """Shows nothing and writes nothing: what is loaded is all that matters here."""

    def _tell(self, event: object) -> None:
        raise AssertionError("loading is no news")


def restarted(file: JournalFile) -> Mailbox:
    mailbox = Mailbox("alice", ME)
    Silent(None, mailbox, lambda: None).load(file.load(), 0.0)  # type: ignore[arg-type]
    return mailbox


def test_restored_log_is_looked_at_twice_after_a_restart_too(file: JournalFile) -> None:
    """The process ended between reset and resync: what comes again must not be shown again."""
    file.apply([Processed("@bob", 1, (entry(1),), 7), Reset("@bob", 8, 0)])
    assert restarted(file).conversations["@bob"].resync_until == SEQ_MAX


def test_nothing_to_look_at_twice_without_a_restore(file: JournalFile) -> None:
    file.apply([Processed("@bob", 1, (entry(1),), 7)])
    assert restarted(file).conversations["@bob"].resync_until == 0


def test_group_that_was_left_wants_no_channel_but_keeps_its_place(file: JournalFile) -> None:
    """Should it be joined again, epoch and position are known, and nothing is shown twice."""
    file.apply([Processed("#team", 1, (entry(1),), 7), ReadUpTo("#team", 1, True)])
    file.apply([Conversation("#team", 7, 5, 1, stale=True), Left("#team")])
    found = restarted(file).conversations["#team"]
    assert (found.epoch, found.position, found.received, found.lost) == (7, 1, 1, True)
    assert not found.wants_channel()


def test_delivered_stays_delivered_over_a_restart(file: JournalFile) -> None:
    """An own message behind an unprocessed entry of somebody else was ticked: it stays so, and is not told
    again when the channel opens."""
    mailbox = Mailbox("alice", ME)
    mailbox.submit(OutboxMessage(b"m" * 16, "@bob", 0, 0, b"", 0.0), 0.0)
    mailbox.opened("@bob", Opened(7, 1, 0, 0, False, (MemberEntry("alice", 0, 0), MemberEntry("bob", 0, 0))))
    mailbox.delivered("@bob", entry(1), 0.0)
    mailbox.accepted("@bob", b"m" * 16, 2, 1, 0.0)
    mailbox.receipts("@bob", [MemberEntry("bob", 2, 0)])
    told = list(iter(mailbox.next_event, None))
    assert events.PositionsChanged("@bob", (MemberEntry("bob", 2, 0),), False, 0, 2, 0, 0) in told
    file.apply([Queue(b"m" * 16, "@bob", 0, 0, b"", 1), Conversation("@bob", 7, 2, 1, stale=False)])
    file.apply([Stored(b"m" * 16, 2, 1, 7), Positions("@bob", (("bob", 2, 0),), False, 2, 0)])
    again = restarted(file)
    assert again.conversations["@bob"].position == 0
    assert again.conversations["@bob"].delivered_mark == 2
    again.opened("@bob", Opened(7, 1, 2, 0, False, (MemberEntry("alice", 0, 0), MemberEntry("bob", 2, 0))))
    ticked = [e for e in iter(again.next_event, None) if isinstance(e, events.PositionsChanged)]
    assert not [e for e in ticked if e.delivered_to > e.delivered_from]


def test_answered_before_the_restart_is_not_ticked_again_when_it_comes_as_an_entry(file: JournalFile) -> None:
    """Our own message behind somebody else's is stored and ticked; the log then brings both."""
    file.apply([Queue(b"m" * 16, "@bob", 0, 0, b"", 1), Conversation("@bob", 7, 2, 1, stale=True)])
    file.apply([Stored(b"m" * 16, 2, 1, 7), Positions("@bob", (("bob", 2, 0),), False, 2, 0)])
    mailbox = restarted(file)
    mailbox.opened("@bob", Opened(7, 1, 2, 0, False, (MemberEntry("alice", 0, 0), MemberEntry("bob", 2, 0))))
    mailbox.delivered("@bob", entry(1), 0.0)
    assert mailbox.conversations["@bob"].received == 2
    mailbox.delivered("@bob", Entry(2, b"m" * 16, "alice", ME, 0, 0, b"", 1), 0.0)
    reported = list(iter(mailbox.next_event, None))
    ticked = [event for event in reported if isinstance(event, events.PositionsChanged)]
    assert not [event for event in ticked if event.delivered_to > event.delivered_from]


def test_what_was_read_in_private_stays_so_over_a_restart(file: JournalFile) -> None:
    """Then something older is read publicly: that says nothing of the rest, now or after a restart."""
    file.apply([Processed("@bob", 2, (entry(1), entry(2)), 7)])
    books = Silent(None, restarted(file), lambda: None)  # type: ignore[arg-type]
    write = books.read_up_to("@bob", 2, public=False)
    assert write is not None
    file.apply([write])
    assert books.read_up_to("@bob", 1, public=True) is None
    found = restarted(file).conversations["@bob"]
    assert (found.read, found.read_public) == (2, False)


class Told(Silent):
    """Remembers which states a message was shown in."""

    def __init__(self) -> None:
        super().__init__(None, Mailbox("alice", ME), lambda: None)  # type: ignore[arg-type]
        self.states: list[State] = []

    def _tell_state(self, message_id: bytes, conversation: str, state: State, *_: object) -> None:
        self.states.append(state)


def test_rejection_during_the_write_of_a_resend_stands() -> None:
    """The journal has the rejection behind the resend, so after a crash it holds: memory says the same."""
    books = Told()
    books.queued("@bob", b"text", b"1" * 16, 0.0)
    books.mailbox.rejected("@bob", b"1" * 16, 0x20, "nobody", 0.0)
    assert not books.requeued(b"1" * 16, 0.0, was_rejected=False)
    assert books.states == [State.QUEUED]
    assert books.requeued(b"1" * 16, 0.0, was_rejected=True), "asked for by who had seen it"
    assert books.states == [State.QUEUED, State.QUEUED]
