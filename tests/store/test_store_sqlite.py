"""The SQLite store keeps the contract; its file is private, its own, and refused in words when unusable."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import contract
import pytest
from given import EPOCH, Given, device

from quicmsg.errors import ConfigurationError, DiskFullError, StorageError
from quicmsg.store import Append, Appended, OpenConversation, Opened, Store, schema, sqlite
from quicmsg.store.sqlite import SqliteStore


def open_store(path: Path) -> SqliteStore:
    return SqliteStore(path, epoch_source=lambda: EPOCH)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "server.db"


@pytest.fixture
def given(path: Path) -> Iterator[Given]:
    def reopen(store: Store) -> Store:
        store.close()
        # A later start draws another epoch and must not use it.
        return SqliteStore(path, epoch_source=lambda: EPOCH + 1)

    given = Given(open_store(path), reopen)
    yield given
    given.store.close()


class TestLog(contract.LogContract):
    pass


class TestPosition(contract.PositionContract):
    pass


class TestFeed(contract.FeedContract):
    pass


class TestGroup(contract.GroupContract):
    pass


class TestAccount(contract.AccountContract):
    pass


class TestDurable(contract.DurableContract):
    pass


# ---- the file ----------------------------------------------------------------------------------


def test_the_file_is_for_its_owner_only(path: Path, given: Given) -> None:
    """0600 in a 0700 directory, also SQLite's own files and a file that was made carelessly."""
    given.users("ann")
    files = sorted(path.parent.iterdir())
    assert len(files) == 5, "database, log, shared memory, lock, witness"
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    given.store.close()
    path.chmod(0o644)
    given.reopen()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_server_on_the_file_is_refused(path: Path, given: Given) -> None:
    """It is told who has the file; once that one has closed it, it may have it."""
    with pytest.raises(ConfigurationError, match=rf"pid {os.getpid()}\).*server\.db.*stop it"):
        open_store(path)
    given.users("ann")
    given.reopen()


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file in the way, a directory instead of a file, no permission: what, where, and what to do."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.db").mkdir()
    for path in (tmp_path / "file" / "server.db", tmp_path / "folder.db"):
        with pytest.raises(ConfigurationError, match=rf"{path.parent.name}.*; name a data directory"):
            open_store(path)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        return  # root may write everywhere
    with pytest.raises(ConfigurationError, match=r"locked.*Permission denied; name a data directory"):
        open_store(locked / "server.db")


def test_what_is_no_store_is_not_written_to(tmp_path: Path) -> None:
    """A text file, and a database of another program, are refused and stay as they are."""
    text = tmp_path / "text.db"
    text.write_text("this is not a database, it is a text that is long enough" * 20)
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()
    for path, words in ((text, "not a database"), (other, "another program")):
        before = path.read_bytes()
        with pytest.raises(ConfigurationError, match=rf"{path.name}.*{words}"):
            open_store(path)
        assert path.read_bytes() == before


def test_a_newer_schema_is_refused_in_words(path: Path, given: Given) -> None:
    """An older program must not write into tables that it does not know."""
    given.store.close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(ConfigurationError, match="written by a newer quicmsg"):
        open_store(path)


def test_a_file_of_the_first_schema_goes_on(path: Path, given: Given) -> None:
    """Its conversations are all there, and count against nobody, since nobody knows who chose them."""
    given.users("ann", "bob")
    given.group("#team", "ann", "bob")
    given.store.close()
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP INDEX member_chosen; ALTER TABLE member DROP COLUMN chosen; PRAGMA user_version = 1;"
        "ALTER TABLE message DROP COLUMN chain; ALTER TABLE conversation DROP COLUMN chain"
    )
    connection.close()
    given.reopen()
    assert given.store.members("#team") == ["ann", "bob"]
    given.group("#late", "ann")
    given.store.close()
    connection = sqlite3.connect(path)
    chosen = "SELECT chosen FROM member ORDER BY id"
    assert connection.execute(chosen).fetchall() == [(0,), (0,), (1,)]
    connection.close()


def test_a_machine_that_cannot_keep_the_promise_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No WAL (a network file system), or a SQLite that is too old: said at the start, not at a commit."""

    class WithoutWal:
        def __init__(self, path: Path) -> None:
            self._connection = schema.connect(path)
            self.close = self._connection.close

        def execute(self, sql: str, parameters: Sequence[object] = ()) -> schema.Rows:
            return self._connection.execute(sql.replace("= WAL", "= DELETE"), parameters)

    with pytest.raises(ConfigurationError, match=r"server\.db.*needs a local disk"):
        SqliteStore(path, epoch_source=lambda: EPOCH, connect=WithoutWal)
    monkeypatch.setattr(schema, "SQLITE_VERSION_MIN", (99, 0, 0))
    with pytest.raises(ConfigurationError, match=r"too old; quicmsg needs 99\.0\.0"):
        open_store(path)


def test_an_older_schema_is_brought_forward(
    path: Path, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step and all or nothing: after a step that fails the old version still works."""
    given.users("ann", "bob")
    direct = given.direct("ann", "bob")
    given.say(direct, "ann", "hi")
    step = ("ALTER TABLE user ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'",)
    published = schema.MIGRATIONS
    monkeypatch.setattr(schema, "MIGRATIONS", (*published, step, ("nonsense",)))
    with pytest.raises(ConfigurationError, match="nonsense"):
        given.reopen()
    monkeypatch.setattr(schema, "MIGRATIONS", published)
    given.reopen()
    monkeypatch.setattr(schema, "MIGRATIONS", (*published, step))
    given.reopen()
    given.say(direct, "bob", "ho")
    assert given.texts(direct, "ann") == ["hi", "ho"]
    given.store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT DISTINCT colour FROM user").fetchall() == [("red",)]
    connection.close()


def test_a_restored_log_gets_a_new_epoch(path: Path, given: Given) -> None:
    """Without the row `epoch` (see SqliteStore) the next start draws one, and keeps it."""
    given.store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM meta WHERE name = 'epoch'")
    connection.close()
    for _ in range(2):
        given.reopen()
        assert given.store.epoch == EPOCH + 1


def test_a_store_that_failed_stays_failed(path: Path, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the batch is there, no later batch is tried, and a new start works."""
    given.users("ann", "bob")
    direct = given.direct("ann", "bob")
    store = given.store
    assert isinstance(store, SqliteStore)
    store._writer.execute("PRAGMA query_only = 1")
    with pytest.raises(StorageError, match=r"cannot write .*server\.db"):
        given.say(direct, "ann", "lost")
    store._writer.execute("PRAGMA query_only = 0")
    with pytest.raises(StorageError, match="failed before"):
        given.say(direct, "ann", "later")
    assert given.texts(direct, "ann") == []
    given.reopen()
    assert given.say(direct, "ann", "again").seq == 1


def test_a_full_disk_changes_nothing_and_can_be_cured(path: Path, given: Given) -> None:
    """Neither on the disk nor in memory: what the batch made is forgotten, and made again by the next try."""
    given.users("ann", "bob", "cid")
    direct = given.direct("ann", "bob")
    given.say(direct, "ann", "first")
    store = given.store
    assert isinstance(store, SqliteStore)
    pages = store._writer.execute("PRAGMA page_count").fetchall()[0][0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    opening = OpenConversation("@ann:cid", "ann", device("ann"), 0, 0, 1)
    batch = [opening, *(given.message(name, "ann", "x" * 9000 + name) for name in (direct, "@ann:cid"))]
    for _ in range(2):
        with pytest.raises(DiskFullError, match=r"no room left for .*server\.db: make room on that disk"):
            store.execute(batch)
        assert given.texts(direct, "bob") == ["first"]
        assert store.members("@ann:cid") == []
    store._writer.execute("PRAGMA max_page_count = 100000")
    opened, *appended = store.execute(batch)
    assert isinstance(opened, Opened)
    assert [result.seq for result in appended if isinstance(result, Appended)] == [2, 1]
    given.reopen()
    assert len(given.texts("@ann:cid", "cid")) == 1


def test_a_full_disk_that_cannot_be_read_either_fails_the_store(path: Path) -> None:
    """What is in memory is then worth nothing."""

    class Dying:
        dying = False

        def __init__(self, path: Path) -> None:
            self._connection = schema.connect(path)
            self.close = self._connection.close

        def execute(self, sql: str, parameters: Sequence[object] = ()) -> schema.Rows:
            if Dying.dying and sql == "COMMIT":
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            if Dying.dying and "max(change)" in sql:
                raise sqlite3.OperationalError("disk I/O error")
            return self._connection.execute(sql, parameters)

    store = SqliteStore(path, epoch_source=lambda: EPOCH, connect=Dying)
    Dying.dying = True
    for words in ("cannot read .*disk I/O error", "failed before"):
        with pytest.raises(StorageError, match=words):
            store.execute([])
    store.close()


def test_files_that_were_removed_fail_the_store(path: Path, given: Given) -> None:
    """Removed, or replaced by others of the same name: database or log, both hold messages."""
    given.users("ann", "bob")
    given.direct("ann", "bob")
    for name in ("server.db", "server.db-wal"):
        given.reopen()
        file = path.with_name(name)
        kept = file.read_bytes()
        file.unlink()
        for content in (None, kept):
            if content is not None:
                file.write_bytes(content)
            with pytest.raises(StorageError, match=r"removed or replaced|failed before"):
                given.say("@ann:bob", "ann", name)


def test_a_bug_in_an_operation_stores_nothing_of_its_batch(given: Given) -> None:
    """Half of a batch is never committed by the next one."""
    given.users("ann", "bob")
    direct = given.direct("ann", "bob")
    given.group("#team", "ann")
    bug = given.change("#team", "ann", "explode")
    with pytest.raises(AssertionError):
        given.store.execute([given.message(direct, "ann", "half"), bug])
    with pytest.raises(StorageError):
        given.store.execute([])
    given.reopen()
    assert given.texts(direct, "ann") == []


def test_a_read_of_a_broken_file_is_a_storage_error(given: Given) -> None:
    """sqlite3's own errors stay inside."""
    store = given.store
    assert isinstance(store, SqliteStore)
    store._reader.close()
    with pytest.raises(StorageError, match="cannot read"):
        store.head()


def test_questions_are_answered_from_indexes(given: Given) -> None:
    """No read looks through a table, or sorts more than one user's conversations."""
    store = given.store
    assert isinstance(store, SqliteStore)
    for sql, values in (
        (sqlite._ENTRIES.format(direction="DESC"), (1, 0, 9, 9)),
        (sqlite._VISIBLE, ("", "")),
        (sqlite._CHANGES_OF_STORE, (1, 0, 9)),
        (sqlite._CHANGES_OF_USER, (1, 0, 9)),
    ):
        plan = [row[3] for row in store._reader.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()]
        assert not any(step.startswith("SCAN") for step in plan), plan
        assert any("TEMP B-TREE" in step for step in plan) == (sql is sqlite._CHANGES_OF_USER), plan


def test_both_ways_to_a_feed_agree(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it looks through the store's changes or the user's conversations, the answer is the same."""
    given.users("ann", *(f"u{number}" for number in range(9)))
    for number in range(9):
        given.say(given.direct("ann", f"u{number}"), "ann", "hi")
        given.direct(f"u{number}", "u0")
    given.group("#left", "ann")
    given.member("#left", "ann", "leave")
    for after in range(given.store.head() + 1):
        monkeypatch.setattr(sqlite, "STORE_FEED_SCAN_MAX", 10**6)
        expected = given.store.changes("ann", after=after, limit=4)
        monkeypatch.setattr(sqlite, "STORE_FEED_SCAN_MAX", 1)
        assert given.store.changes("ann", after=after, limit=4) == expected
    assert len(given.feed("ann")) == 9


def test_kept_rows_are_bounded(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that must forget rows after each batch works as one that never does."""
    monkeypatch.setattr("quicmsg.store.sqlite_tables.STORE_HOT_ROWS", 0)
    given.users("ann", "bob")
    direct = given.direct("ann", "bob")
    for number in range(1, 4):
        assert given.say(direct, "ann", str(number)).seq == number
        assert given.move(direct, "bob", number).received == number
    store = given.store
    assert isinstance(store, SqliteStore)
    assert not store._tables._conversations
    assert not store._tables._positions
    assert not store._tables._batch_messages


# ---- kill -9 -----------------------------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
from given import EPOCH, Given
from quicmsg.store.sqlite import SqliteStore

given = Given(SqliteStore(Path(sys.argv[1]), epoch_source=lambda: EPOCH), lambda store: store)
given.users("ann", "bob")
direct = given.direct("ann", "bob")
for batch in range(10**6):
    size = 1 + batch * 7 % 40
    operations = [given.message(direct, "ann", f"{sys.argv[2]}-{batch}-{n}") for n in range(size)]
    results = given.store.execute(operations)
    for operation, result in zip(operations, results):
        sys.stdout.write(f"{operation.message_id.hex()} {result.seq} {operation.body.decode()}\\n")
    sys.stdout.flush()
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    """Five lives of a process that appends and reports: all of it is there, under the reported seq."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}"}
    acknowledged: dict[bytes, tuple[int, bytes]] = {}
    for life in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), str(life)], stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        killed_at = time.monotonic() + 0.05 + 0.06 * life
        while time.monotonic() < killed_at:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.stdout.close()
        process.wait()
        whole = [line.split() for line in lines if line.endswith(b"\n")]
        acknowledged |= {bytes.fromhex(i.decode()): (int(seq), body) for i, seq, body in whole}

        store = open_store(path)
        entries = []
        while page := store.entries("@ann:bob", "ann", after=len(entries), limit=1000):
            entries += page
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        stored = {entry.message_id: (entry.seq, entry.body) for entry in entries}
        assert len(stored) == len(entries)
        assert acknowledged.items() <= stored.items()
        last_id, (last_seq, last_body) = list(acknowledged.items())[-1]
        (again,) = store.execute([Append("@ann:bob", "ann", device("ann"), last_id, 0, 0, last_body, 1)])
        assert isinstance(again, Appended)
        assert (again.seq, again.duplicate) == (last_seq, True)
        store.close()
    assert len(acknowledged) > 100
