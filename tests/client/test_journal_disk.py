"""The journal's file on the disk: who may use it, what damages it, and in which words that is said."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicmsg.client import journal_schema, private_files
from quicmsg.client.journal import JournalFile, Queue, Stored
from quicmsg.errors import ConfigurationError, StorageError


def message_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def queue(number: int, body: bytes = b"text") -> Queue:
    return Queue(message_id(number), "@bob", 0, 0, body, number)


def open_file(path: Path, user: str = "alice") -> JournalFile:
    return JournalFile(path, user=user, device=b"d" * 16)


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
    assert file._all("SELECT body, colour FROM outbox") == [(b"text", "blue")]
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


def test_mixed_up_pages_are_found_when_it_is_opened(path: Path) -> None:
    """Before anything is sent or shown from it, also where no question would have met the damage."""
    file = open_file(path)
    file.apply([queue(number, body=b"x" * 3_000) for number in range(50)])
    pages = file._all("SELECT rootpage FROM sqlite_master WHERE name = 'message_own'")
    file.close()
    with path.open("r+b") as raw:
        raw.seek((pages[0][0] - 1) * 4096)
        raw.write(b"\x0a\xff\xff\xff")
    with pytest.MonkeyPatch.context() as unchecked:
        unchecked.setattr(journal_schema, "JOURNAL_CHECK_SIZE_MAX", 0)
        open_file(path).close()
    with pytest.raises(StorageError, match=rf"{path.name} is damaged.*start anew"):
        open_file(path)


def test_files_that_vanish_are_noticed_at_the_next_write(path: Path) -> None:
    """SQLite would go on writing into files without names, and call it durable."""
    file = open_file(path)
    file.apply([queue(1)])
    path.unlink()
    for number in (2, 3):
        with pytest.raises(StorageError, match=r"journal\.db was removed or replaced: start this"):
            file.apply([queue(number)])
    file.close()


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


def test_disk_that_is_full_at_the_commit_can_be_cured(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all failed commits this one is understood: nothing was written, and room can be made."""

    class Full(sqlite3.Connection):
        full = True

        def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
            if sql == "COMMIT" and self.total_changes > 1 and Full.full:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return super().execute(sql, parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(journal_schema.sqlite3, "connect", _connect_with(Full))
    file = open_file(path)
    with pytest.raises(StorageError, match="no room left"):
        file.apply([queue(1)])
    Full.full = False
    file.apply([queue(2)])
    assert numbers(file) == [2]
    file.close()


def test_bug_in_a_write_rolls_back_and_harms_nothing(file: JournalFile) -> None:
    """A value that SQLite does not take is our bug: it shows, and nothing of its transaction stays."""
    with pytest.raises(OverflowError):
        file.apply([queue(1), Stored(message_id(1), 2**70, 5, 7)])
    assert file.outbox_size == 0
    file.apply([queue(2)])
    assert numbers(file) == [2]
