"""What the journal keeps: every write, in any order, as often as you like, over restarts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicmsg.client import journal_apply
from quicmsg.client.journal import (
    Cancelled,
    Conversation,
    Cursor,
    HistoryPage,
    JournalFile,
    Left,
    MessageState,
    Positions,
    Processed,
    Queue,
    ReadUpTo,
    Rejected,
    Requeued,
    Reset,
    Stored,
    Write,
)
from quicmsg.errors import ErrorCode
from quicmsg.protocol.frames import Entry

DEVICE = b"d" * 16


def message_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def queue(number: int, conversation: str = "@bob", body: bytes | None = None) -> Queue:
    content = f"text {number}".encode() if body is None else body
    return Queue(message_id(number), conversation, 0, 0, content, 1_000 + number)


def entry(seq: int, number: int, sender: str = "bob", body: bytes | None = None) -> Entry:
    content = f"text {number}".encode() if body is None else body
    return Entry(seq, message_id(number), sender, b"e" * 16, 0, 0, content, 2_000 + seq)


def open_file(path: Path, user: str = "alice") -> JournalFile:
    return JournalFile(path, user=user, device=DEVICE)


def numbers(file: JournalFile) -> list[int]:
    return [int.from_bytes(row.message_id, "big") for row in file.outbox()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "127.0.0.1_4433" / "alice" / "journal.db"


@pytest.fixture
def file(path: Path) -> Iterator[JournalFile]:
    opened = open_file(path)
    yield opened
    opened.close()


# ---- the outbox


def test_queued_messages_keep_their_order_over_a_restart(path: Path) -> None:
    """One sender's messages keep the order in which they were sent, also when the last one had gone."""
    file = open_file(path)
    file.apply([queue(3), queue(1), queue(2)])
    (highest,) = file._all("SELECT max(place) FROM outbox")
    file.apply([Stored(message_id(2), 1, 5, 7)])
    file.close()
    file = open_file(path)
    file.apply([queue(0)])
    assert file._all("SELECT max(place) FROM outbox")[0] > highest
    assert numbers(file) == [3, 1, 0]
    row = file.outbox()[0]
    assert (row.conversation, row.body, row.queued_at_ms) == ("@bob", b"text 3", 1_003)
    assert row.state is MessageState.QUEUED
    file.close()


def test_same_message_is_queued_once_and_another_content_is_a_conflict(file: JournalFile) -> None:
    """An id stands for one content, wherever the message is by now."""
    file.apply([queue(1), queue(2), queue(3), Stored(message_id(2), 1, 5, 7), Cancelled(message_id(3))])
    assert file.apply([queue(1), queue(2)]) == [None, None]
    assert numbers(file) == [1]
    for number in (1, 2, 3):
        (refused,) = file.apply([queue(number, body=b"other")])
        assert refused is not None
        assert refused.code is ErrorCode.CONFLICT
    (cancelled,) = file.apply([queue(3)])
    assert cancelled is not None
    assert "new id" in str(cancelled)


def test_refused_write_does_not_disturb_its_transaction(file: JournalFile) -> None:
    """What is committed together is not refused together."""
    results = file.apply([queue(1), queue(1, body=b"other"), queue(2)])
    assert [result is None for result in results] == [True, False, True]
    assert numbers(file) == [1, 2]


def test_full_outbox_refuses_and_room_is_counted_right(
    file: JournalFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is not filled: beyond the bound send() is told, until something leaves."""
    monkeypatch.setattr(journal_apply, "OUTBOX_MAX", 2)
    full = file.apply([queue(1), queue(2), queue(3)])[2]
    assert full is not None
    assert full.code is ErrorCode.LIMIT
    for leaving in (
        Cancelled(message_id(1)),
        Stored(message_id(2), 1, 5, 7),
        Processed("@bob", 2, (entry(2, 3, "alice"),), 7),
    ):
        assert file.outbox_size == 2 or file.apply([queue(3)]) == [None]
        file.apply([leaving, leaving])
    assert file.outbox_size == len(file.outbox()) == 0


def test_stored_message_leaves_the_outbox_and_becomes_history(file: JournalFile) -> None:
    """From one tick on a message is in the log, under its seq, sent by us; twice is once."""
    file.apply([queue(1), Stored(message_id(1), 4, 99, 7), Stored(message_id(1), 4, 99, 7)])
    assert numbers(file) == []
    assert file.history("@bob", None, 10) == [Entry(4, message_id(1), "alice", DEVICE, 0, 0, b"text 1", 99)]
    row = file.message(message_id(1))
    assert row is not None
    assert (row.state, row.seq, row.at_ms) == (MessageState.STORED, 4, 99)
    assert file.own_between("@bob", 3, 4) == [(message_id(1), 4)]
    assert file.own_between("@bob", 4, 9) == file.own_between("@bob", 0, 3) == []


def test_unknown_ids_change_nothing(file: JournalFile) -> None:
    """Late or repeated answers of a server are harmless."""
    file.apply([Stored(message_id(1), 4, 99, 7), Rejected(message_id(1), 3, "no"), Requeued(message_id(1))])
    file.apply([Cancelled(message_id(1))])
    assert file.message(message_id(1)) is None
    assert file.history("@bob", None, 10) == []


def test_rejected_message_waits_and_goes_to_the_end_when_sent_again(file: JournalFile) -> None:
    """A refusal blocks nobody; a message that was only unanswered keeps its place."""
    file.apply([queue(1), queue(2), queue(3), Rejected(message_id(1), 0x23, "too big")])
    rejected = file.outbox()[0]
    assert (rejected.state, rejected.code, rejected.text) == (MessageState.REJECTED, 0x23, "too big")
    file.apply([Requeued(message_id(1)), Requeued(message_id(2)), Requeued(message_id(1))])
    assert numbers(file) == [2, 3, 1]
    assert [(row.state, row.code, row.text) for row in file.outbox()][2] == (MessageState.QUEUED, 0, "")
    assert file.outbox_size == 3


def test_cancelled_message_that_was_stored_after_all_is_a_message(file: JournalFile) -> None:
    """The outcome of an unanswered message is unknown, so cancelling it cannot make it untrue."""
    file.apply([queue(1), queue(2), Cancelled(message_id(1)), Cancelled(message_id(2))])
    assert numbers(file) == []
    cancelled = file.message(message_id(1))
    assert cancelled is not None
    assert cancelled.state is MessageState.CANCELLED
    file.apply([Stored(message_id(1), 1, 99, 7), Processed("@bob", 2, (entry(2, 2, "alice"),), 7)])
    for number in (1, 2):
        row = file.message(message_id(number))
        assert row is not None
        assert (row.state, row.seq) == (MessageState.STORED, number)
    assert file.own_between("@bob", 0, 9) == [(message_id(1), 1), (message_id(2), 2)]


def test_own_entry_from_the_log_settles_the_outbox_but_nobody_elses_does(file: JournalFile) -> None:
    """An Accepted that got lost is made good by the log; another member cannot unsend our message."""
    file.apply([queue(1)])
    file.apply([Processed("@bob", 1, (entry(1, 1, "bob"),), 7)])
    file.apply([HistoryPage("#team", (entry(1, 1, "alice"),))])
    file.apply([HistoryPage("@bob", (entry(9, 1, "alice", b"other"),))])
    assert numbers(file) == [1]
    file.apply([queue(2), HistoryPage("@bob", (entry(2, 2, "alice"),))])
    assert numbers(file) == [1]
    assert file.own_between("@bob", 0, 5) == [(message_id(2), 2)]


def test_own_message_is_kept_when_its_seq_is_taken(file: JournalFile) -> None:
    """A server that gives one seq twice cannot make a message disappear, nor break the journal."""
    file.apply([queue(1), Processed("@bob", 1, (entry(1, 5),), 7), Stored(message_id(1), 1, 99, 7)])
    row = file.message(message_id(1))
    assert row is not None
    assert (row.state, row.seq) == (MessageState.STORED, None)
    assert [item.sender for item in file.history("@bob", None, 9)] == ["bob"]


def test_own_message_is_settled_though_its_id_was_shown_with_another_content(file: JournalFile) -> None:
    """A server that lies about our own id cannot keep the message waiting, nor untold."""
    file.apply([queue(1), HistoryPage("@bob", (entry(1, 1, "alice", b"other"),))])
    assert numbers(file) == [1]
    file.apply([Stored(message_id(1), 1, 99, 7)])
    assert numbers(file) == []
    assert file.own_between("@bob", 0, 9) == [(message_id(1), 1)]


def test_message_is_never_renumbered(file: JournalFile) -> None:
    """What was shown under a seq stays there, whatever the server says later."""
    file.apply([Processed("@bob", 1, (entry(1, 1),), 7), Processed("@bob", 2, (entry(2, 1),), 7)])
    assert file.history("@bob", None, 9) == [entry(1, 1)]


# ---- what is received


def test_processed_entries_and_position_are_one_and_never_go_back(file: JournalFile) -> None:
    """An acknowledged message is on this disk; the position only goes forward."""
    file.apply([Processed("@bob", 2, (entry(1, 1), entry(2, 2)), 7), Processed("@bob", 1, (entry(1, 1),), 7)])
    (row,) = file.load().conversations
    assert (row.name, row.epoch, row.position, row.head) == ("@bob", 7, 2, 2)
    assert file.history("@bob", None, 9) == [entry(1, 1), entry(2, 2)]
    assert file.known(message_id(2), "bob")
    assert not file.known(message_id(2), "carol")


def test_history_is_the_newest_below_a_seq_in_ascending_order(file: JournalFile) -> None:
    """A person scrolls upwards, a page at a time."""
    page = tuple(entry(seq, seq) for seq in range(1, 8))
    file.apply([HistoryPage("@bob", page[3:]), HistoryPage("@bob", page)])
    assert file.history("@bob", None, 3) == list(page[4:])
    assert file.history("@bob", 5, 2) == list(page[2:4])
    assert file.history("@bob", 1, 2) == file.history("@carol", None, 2) == []


def test_positions_and_cursor_are_remembered_and_monotone(path: Path) -> None:
    """Receipts never go back, also not over a restart."""
    file = open_file(path)
    file.apply(
        [
            Conversation("#team", 7, 9, 2, stale=True),
            Conversation("#team", 7, 5, 1, stale=False),
            Positions("#team", (("bob", 5, 3), ("carol", 2, 2), ("dave", 1, 1))),
            Positions("#team", (("bob", 4, 4),)),
            Positions("#team", (("carol", 6, 0), ("bob", 0, 0)), whole=True),
            ReadUpTo("#team", 4, public=True),
            ReadUpTo("#team", 3, public=False),
            Cursor(7, 20),
            Cursor(7, 10),
        ]
    )
    before = file.load()
    file.close()
    file = open_file(path)
    assert file.load() == before
    (row,) = before.conversations
    assert (row.head, row.oldest, row.stale) == (9, 2, False)
    assert row.members == (("bob", 5, 4), ("carol", 6, 2))
    assert (row.read, row.read_public) == (4, False)
    assert (before.epoch, before.cursor) == (7, 20)
    file.apply([Cursor(8, 3)])
    assert (file.load().epoch, file.load().cursor) == (8, 3)
    file.close()


def test_restored_log_is_never_mixed_with_the_old_one(file: JournalFile) -> None:
    """After a reset old seqs are gone, ids stay known, and late news of the old epoch moves nothing."""
    file.apply(
        [queue(9), Processed("@bob", 2, (entry(1, 1), entry(2, 2)), 7), Stored(message_id(9), 3, 5, 7)]
    )
    file.apply([Positions("@bob", (("bob", 2, 2),)), Conversation("@bob", 7, 2, 1, stale=False)])
    file.apply([Conversation("@bob", 8, 1, 1, stale=False)])
    (row,) = file.load().conversations
    assert (row.epoch, row.position, row.head, row.stale) == (7, 2, 2, True)

    file.apply([Reset("@bob", 8, 1), Processed("@bob", 9, (entry(9, 4),), 7)])
    (row,) = file.load().conversations
    assert (row.epoch, row.position, row.head, row.members) == (8, 1, 1, ())
    assert file.history("@bob", None, 9) == []
    assert all(file.known(message_id(number), "bob") for number in (1, 2, 4))
    own = file.message(message_id(9))
    assert own is not None
    assert (own.state, own.seq) == (MessageState.STORED, None)

    file.apply([Processed("@bob", 3, (entry(1, 2), entry(2, 9, "alice"), entry(3, 1)), 8)])
    assert [item.seq for item in file.history("@bob", None, 9)] == [1, 2, 3]
    assert file.own_between("@bob", 0, 9) == [(message_id(9), 2)]


def test_left_conversation_is_gone_until_the_server_names_it_again(file: JournalFile) -> None:
    """Leaving ends the news, not the history; joining again goes on under the known epoch and position."""
    file.apply([Processed("#team", 1, (entry(1, 1),), 7), Left("#team")])
    file.apply([Processed("#team", 2, (entry(2, 2),), 7)])
    (row,) = file.load().conversations
    assert (row.gone, row.epoch, row.position, row.owed) == (True, 7, 2, 0)
    assert len(file.history("#team", None, 9)) == 2
    file.apply([Conversation("#team", 7, 5, 4, stale=True)])
    assert [(row.position, row.gone) for row in file.load().conversations] == [(2, False)]


def test_marks_of_ticks_survive_and_go_forward_only_until_the_log_is_replaced(file: JournalFile) -> None:
    """What was shown as delivered or read is so after a restart; a restored log begins anew."""
    file.apply([Conversation("@bob", 7, 9, 1, stale=False), Positions("@bob", (("bob", 5, 3),), False, 5, 3)])
    file.apply([Positions("@bob", (), False, 4, 4)])
    (row,) = file.load().conversations
    assert (row.delivered_mark, row.read_mark) == (5, 4)
    file.apply([Reset("@bob", 8, 0)])
    (row,) = file.load().conversations
    assert (row.delivered_mark, row.read_mark) == (0, 0)


def test_entries_without_a_place_ask_for_a_second_look(file: JournalFile) -> None:
    """Since the log was restored their seq is not known: until each has one, what comes may be known."""
    file.apply([Processed("@bob", 1, (entry(1, 1),), 7)])
    assert [row.resync for row in file.load().conversations] == [False]
    file.apply([Reset("@bob", 8, 0)])
    assert [row.resync for row in file.load().conversations] == [True]
    file.apply([Processed("@bob", 1, (entry(1, 1),), 8)])
    assert [row.resync for row in file.load().conversations] == [False]


# ---- every write, in any order

_ids = st.integers(0, 3)
_seqs = st.integers(1, 5)
_names = st.sampled_from(["@bob", "#team"])
_epochs = st.integers(7, 8)
_entries = st.lists(st.builds(entry, _seqs, _ids, st.sampled_from(["alice", "bob"])), max_size=3).map(tuple)
_writes = st.one_of(
    st.builds(queue, _ids, _names, st.sampled_from([None, b"other"])),
    st.builds(Stored, _ids.map(message_id), _seqs, st.just(5), _epochs),
    st.builds(Rejected, _ids.map(message_id), st.just(3), st.just("no")),
    st.builds(Requeued, _ids.map(message_id)),
    st.builds(Cancelled, _ids.map(message_id)),
    st.builds(Processed, _names, _seqs, _entries, _epochs),
    st.builds(HistoryPage, _names, _entries, st.sampled_from([0, 7])),
    st.builds(ReadUpTo, _names, _seqs, st.booleans()),
    st.builds(Positions, _names, st.just((("bob", 2, 1),)), st.booleans()),
    st.builds(Conversation, _names, _epochs, _seqs, _seqs, st.booleans()),
    st.builds(Reset, _names, _epochs, _seqs),
    st.builds(Cursor, _epochs, _seqs),
    st.builds(Left, _names),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(writes=st.lists(_writes, max_size=30))
def test_any_writes_keep_each_message_in_one_place_and_may_be_repeated(writes: list[Write]) -> None:
    """Whatever comes in whatever order, twice: no message is lost or doubled, and twice is once."""
    with tempfile.TemporaryDirectory() as directory:
        once, twice = open_file(Path(directory, "once.db")), open_file(Path(directory, "twice.db"))
        handed_over: dict[bytes, Queue] = {}
        for write, result in zip(writes, once.apply(writes), strict=True):
            if isinstance(write, Queue) and result is None:
                handed_over[write.message_id] = write
        twice.apply([write for write in writes for _ in range(2)])
        assert once.load() == twice.load()
        assert once.outbox_size == twice.outbox_size == len(once.outbox())
        columns = "conversation, seq, message_id, sender, body, own"
        rows = f"SELECT {columns} FROM message ORDER BY message_id, sender"
        assert once._all(rows) == twice._all(rows)
        for identifier, sent in handed_over.items():
            unsent = once._all("SELECT 1 FROM outbox WHERE message_id = ?", identifier)
            cancelled = once._all("SELECT 1 FROM cancelled WHERE message_id = ?", identifier)
            # Not own: queued when the log had it already, from an earlier life of this device.
            logged = once._all(
                "SELECT 1 FROM message WHERE message_id = ? AND sender = 'alice' "
                "AND (own = 1 OR (conversation = ? AND body = ?))",
                identifier,
                sent.conversation,
                sent.body,
            )
            assert len(unsent + cancelled + logged) == 1
        for name in ("@bob", "#team"):
            seqs = [item.seq for item in once.history(name, None, 99)]
            assert seqs == sorted(set(seqs))
        once.close()
        twice.close()
