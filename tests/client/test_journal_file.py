"""The journal's file: what is written, what survives, what is refused, and in which words."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicmsg.client import journal_apply, journal_schema, private_files
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
from quicmsg.errors import ConfigurationError, ErrorCode, StorageError
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
    file.apply([Stored(message_id(2), 1, 5, 7)])
    file.close()
    file = open_file(path)
    file.apply([queue(0)])
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
    file.apply([Positions("@bob", (("bob", 2, 2),)), Conversation("@bob", 8, 1, 1, stale=False)])
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


def test_left_conversation_is_not_loaded_until_the_server_names_it_again(file: JournalFile) -> None:
    """Leaving ends the news, not the history; joining again goes on."""
    file.apply([Processed("#team", 1, (entry(1, 1),), 7), Left("#team")])
    file.apply([Processed("#team", 2, (entry(2, 2),), 7)])
    assert file.load().conversations == ()
    assert len(file.history("#team", None, 9)) == 2
    file.apply([Conversation("#team", 7, 5, 4, stale=True)])
    assert [row.position for row in file.load().conversations] == [2]


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


@settings(max_examples=60, deadline=None)
@given(writes=st.lists(_writes, max_size=30))
def test_any_writes_keep_each_message_in_one_place_and_may_be_repeated(writes: list[Write]) -> None:
    """Whatever comes in whatever order, twice: no message is lost or doubled, and twice is once."""
    with tempfile.TemporaryDirectory() as directory:
        once, twice = open_file(Path(directory, "once.db")), open_file(Path(directory, "twice.db"))
        handed_over = set()
        for write, result in zip(writes, once.apply(writes), strict=True):
            if isinstance(write, Queue) and result is None:
                handed_over.add(write.message_id)
        twice.apply([write for write in writes for _ in range(2)])
        assert once.load() == twice.load()
        assert once.outbox_size == twice.outbox_size == len(once.outbox())
        rows = (
            "SELECT conversation, seq, message_id, sender, body, own FROM message ORDER BY message_id, sender"
        )
        assert once._all(rows) == twice._all(rows)
        for identifier in handed_over:
            places = [
                once._all(f"SELECT 1 FROM {table} WHERE message_id = ? {more}", identifier)
                for table, more in (("outbox", ""), ("cancelled", ""), ("message", "AND own = 1"))
            ]
            assert sum(map(len, places)) == 1
        for name in ("@bob", "#team"):
            seqs = [item.seq for item in once.history(name, None, 99)]
            assert seqs == sorted(set(seqs))
        once.close()
        twice.close()


# ---- the file itself


def test_file_is_private_and_synced_in_full(file: JournalFile, path: Path) -> None:
    """Nobody else reads the messages, and a power cut takes nothing that was confirmed."""
    file.apply([queue(1)])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for made in path.parent.iterdir():
        assert stat.S_IMODE(made.stat().st_mode) == 0o600, made
    assert file._all("PRAGMA journal_mode") == [("wal",)]
    assert file._all("PRAGMA synchronous") == [(2,)]


def test_journal_of_an_older_umask_is_closed_to_others(path: Path) -> None:
    """A journal that others could read is so no more once we opened it."""
    open_file(path).close()
    path.chmod(0o644)
    open_file(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_second_client_in_one_directory_is_told_what_to_do(file: JournalFile, path: Path) -> None:
    """Two processes never share a journal; the first one's end frees it."""
    with pytest.raises(
        ConfigurationError, match=rf"another quicmsg client \(process {os.getpid()}\).*--data"
    ):
        open_file(path)
    file.close()
    open_file(path).close()


def test_where_there_is_no_flock_sqlite_keeps_the_second_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without file locks of the system (Windows) the database's own lock does it."""
    monkeypatch.setattr(private_files, "HAS_LOCKS", False)
    monkeypatch.setattr(
        sqlite3, "connect", lambda *a, _connect=sqlite3.connect, **k: _connect(*a, timeout=0, **k)
    )
    first = open_file(path)
    with pytest.raises(ConfigurationError, match="another program holds"):
        open_file(path)
    first.close()
    open_file(path).close()


def test_journal_of_another_user_is_refused(path: Path) -> None:
    """Messages of one account are never sent from another."""
    open_file(path).close()
    with pytest.raises(ConfigurationError, match="journal of alice, not of bob"):
        open_file(path, user="bob")
    open_file(path).close()


def test_newer_and_foreign_files_are_refused_untouched(path: Path) -> None:
    """A program never writes into a file that it does not understand."""
    open_file(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigurationError, match="newer quicmsg"):
        open_file(path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    with pytest.raises(ConfigurationError, match="another program"):
        open_file(path)


def test_older_file_is_brought_forward(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update keeps what the older program wrote, and a failed one leaves the file as it was."""
    file = open_file(path)
    file.apply([queue(1)])
    file.close()
    released = journal_schema.MIGRATIONS
    step = ("ALTER TABLE outbox ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'", "CREATE TABLE oops (")
    monkeypatch.setattr(journal_schema, "MIGRATIONS", (*released, step))
    with pytest.raises(StorageError):
        open_file(path)
    monkeypatch.setattr(journal_schema, "MIGRATIONS", (*released, step[:1]))
    file = open_file(path)
    assert file._all("SELECT body, colour FROM outbox") == [(b"text 1", "blue")]
    assert file._all("PRAGMA user_version") == [(len(released) + 1,)]
    file.close()


@pytest.mark.parametrize("damage", ["no database", "torn page"])
def test_damaged_file_is_named(path: Path, damage: str) -> None:
    """A broken disk is said in words, with the file's name and what can be saved."""
    file = open_file(path)
    file.apply([queue(number, body=b"x" * 3_000) for number in range(50)])
    file.close()
    with path.open("r+b") as raw:
        if damage == "torn page":
            raw.seek(4096)
        raw.write(os.urandom(100_000))
    with pytest.raises(StorageError, match=rf"{path.name} is damaged.*backup"):
        open_file(path).load()


def test_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    """A data directory of no use is a clear error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"file/alice cannot be used.*--data"):
        open_file(tmp_path / "file" / "alice" / "journal.db")
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(ConfigurationError, match=r"journal\.db cannot be used.*--data"):
        open_file(tmp_path / "journal.db")


def test_full_disk_fails_in_words_and_can_be_cured(file: JournalFile) -> None:
    """Nothing of a failed write is kept, and once there is room the journal goes on."""
    file.apply([queue(1)])
    pages = file._all("PRAGMA page_count")[0][0]
    file._all(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="no room left"):
        file.apply([queue(2), queue(3, body=b"x" * 9_000)])
    assert file.outbox_size == 1
    file._all("PRAGMA max_page_count = 100000")
    file.apply([queue(3, body=b"x" * 9_000)])
    assert numbers(file) == [1, 3]


def test_failed_commit_is_never_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync nobody knows what is on the disk: the journal refuses until it is opened anew."""

    class Dying(sqlite3.Connection):
        def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
            if sql == "COMMIT" and self.total_changes > 1:
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(journal_schema.sqlite3, "connect", _connect_with(Dying))
    file = open_file(path)
    for _ in range(2):
        with pytest.raises(StorageError, match="disk I/O error"):
            file.apply([queue(1)])
    with pytest.raises(StorageError):
        file.apply([])
    file.close()
    monkeypatch.undo()
    file = open_file(path)
    assert numbers(file) == []
    file.close()


def _connect_with(factory: type[sqlite3.Connection]):  # type: ignore[no-untyped-def]
    connect = sqlite3.connect
    return lambda *arguments, **options: connect(*arguments, factory=factory, **options)


def test_bug_in_a_write_rolls_back_and_harms_nothing(file: JournalFile) -> None:
    """A value that SQLite does not take is our bug: it shows, and nothing of its transaction stays."""
    with pytest.raises(OverflowError):
        file.apply([queue(1), Stored(message_id(1), 2**70, 5, 7)])
    assert file.outbox_size == 0
    file.apply([queue(2)])
    assert numbers(file) == [2]
