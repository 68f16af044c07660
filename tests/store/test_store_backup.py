"""A store that went back to an older copy begins a new epoch; copies are checked, and replace nothing."""

from __future__ import annotations

import itertools
import logging
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from given import Given

from quicmsg.errors import ConfigurationError, StorageError
from quicmsg.store import backup, check
from quicmsg.store.lock import FileLock
from quicmsg.store.sqlite import SqliteStore

epochs = itertools.count(1)
messages = itertools.count(1)


def open_store(path: Path) -> SqliteStore:
    return SqliteStore(path, epoch_source=lambda: next(epochs))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "server.db"


@pytest.fixture
def given(path: Path) -> Iterator[Given]:
    def reopen(store: object) -> SqliteStore:
        given.store.close()
        return open_store(path)

    given = Given(open_store(path), reopen)
    given.users("ann", "bob")
    given.direct("ann", "bob")
    say(given, 3)
    yield given
    given.store.close()


def say(given: Given, count: int) -> None:
    for _ in range(count):
        given.say("@ann:bob", "ann", f"message {next(messages)}")


def without_tables(path: Path) -> None:
    """What is left of a young store when its log was removed: one page that says how it is kept."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size


def report(text: str) -> None:
    assert text


# ---- noticed ------------------------------------------------------------------------------------


def test_an_epoch_lasts_as_long_as_nothing_goes_back(given: Given, caplog: pytest.LogCaptureFixture) -> None:
    """Starts, kills, a witness that lags behind or is lost: no client has to fetch anything again."""
    epoch = given.store.epoch
    given.reopen()
    assert isinstance(given.store, SqliteStore)
    path = given.store._path
    witness = path.with_name("server.db.witness")
    early = witness.read_bytes()
    say(given, 3)
    given.store._broken = True  # what it does at its end, a killed process does not
    given.reopen()
    given.store.close()
    witness.write_bytes(early)
    given.reopen()
    assert given.store.epoch == epoch
    for damage in (b"", b"{", b'{"store": "x"}', b"[]", b"\xff"):
        given.store.close()
        witness.write_bytes(damage)
        given.reopen()
        assert given.store.epoch == epoch
    assert caplog.records == []


def test_a_copy_of_an_earlier_start_is_noticed(
    path: Path, given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    """Put back by hand, after a stop, over what came later: said in one line, once."""
    given.store.close()
    shutil.copyfile(path, path.with_name("copy"))
    given.store = open_store(path)
    before = given.store.epoch
    given.store._broken = True
    given.store.close()
    shutil.copyfile(path.with_name("copy"), path)
    given.store = open_store(path)
    after = given.store.epoch
    assert after != before
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (
        "a new epoch begins, clients fetch again: this database was copied before start 2" in record.message
    )
    given.reopen()
    assert given.store.epoch == after


def test_a_copy_of_the_same_start_is_noticed(
    path: Path, given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    """Made while the server ran; when that stopped, it noted how far it had come."""
    before = given.store.epoch
    with closing(sqlite3.connect(path)) as running, closing(sqlite3.connect(path.with_name("copy"))) as copy:
        running.backup(copy)
    say(given, 1)
    given.store.close()
    shutil.copyfile(path.with_name("copy"), path)
    given.store = open_store(path)
    assert given.store.epoch != before
    assert "this database ends at change 4, and had come to 5" in caplog.text


def test_a_busy_store_notes_how_far_it_is(path: Path, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is killed leaves a witness behind that is at most STORE_WITNESS_INTERVAL old."""
    monkeypatch.setattr("quicmsg.store.witness.STORE_WITNESS_INTERVAL", 0.0)
    given.reopen()
    before = given.store.epoch
    with closing(sqlite3.connect(path)) as running, closing(sqlite3.connect(path.with_name("copy"))) as copy:
        running.backup(copy)
    say(given, 1)
    given.store._broken = True  # no last note
    given.store.close()
    shutil.copyfile(path.with_name("copy"), path)
    given.store = open_store(path)
    assert given.store.epoch != before


def test_another_database_is_noticed(path: Path, given: Given, caplog: pytest.LogCaptureFixture) -> None:
    """A file of another server: whatever clients knew is not known here."""
    given.store.close()
    open_store(path.with_name("other.db")).close()
    path.with_name("other.db").replace(path)
    given.store = open_store(path)
    assert "this database is not the one that was here before" in caplog.text


def test_a_witness_that_cannot_be_written_stops_nothing(
    path: Path, given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    """It is one of three safeguards, and messages are not its business: said, and gone on."""
    path.with_name("server.db.witness.new").mkdir()
    assert isinstance(given.store, SqliteStore)
    assert given.store._witness is not None
    given.store._witness.end(99)
    assert "cannot write" in caplog.text
    say(given, 1)
    path.with_name("server.db.witness.new").rmdir()


def test_a_client_that_has_seen_more_is_reset_and_told_of(
    given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    """The last safeguard: what it says is logged with the remedy, not for every one of a flood."""
    opened = given.open("@ann:bob", "bob", position=9, epoch=given.store.epoch)
    assert opened.reset
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "has message 9 of @ann:bob, whose log ends at 3" in record.message
    assert "quicmsg new-epoch" in record.message
    given.open("@ann:bob", "bob", position=9, epoch=given.store.epoch + 7)
    for _ in range(98):
        given.open("@ann:bob", "bob", position=9, epoch=given.store.epoch)
    assert len(caplog.records) == 7
    assert "(doubt 64)" in caplog.records[-1].message


# ---- copies --------------------------------------------------------------------------------------


def test_a_backup_is_whole_private_and_one_file(path: Path, given: Given, tmp_path: Path) -> None:
    """Made beside a running server, which goes on; put in place by hand it begins a new epoch."""
    copy = tmp_path / "backup.db"
    backup.backup(path, copy, report)
    say(given, 1)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backup.db", "data"]
    with check.reading(copy) as connection:
        assert check.whole(connection, str) == []
    with pytest.raises(ConfigurationError, match="exists, and backups are never overwritten"):
        backup.backup(path, copy, report)
    epoch = given.store.epoch
    given.store.close()
    path.with_name("server.db.witness").unlink()
    shutil.copyfile(copy, path)
    given.store = open_store(path)
    assert given.store.epoch != epoch
    assert len(given.texts("@ann:bob", "bob")) == 3
    epoch = given.store.epoch
    given.reopen()
    assert given.store.epoch == epoch


def test_a_damaged_store_gives_no_backup(path: Path, given: Given, tmp_path: Path) -> None:
    """Else the last good backup would be thrown away for a bad one."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE message SET body = x'00' WHERE seq = 2")
    with pytest.raises(StorageError, match=r"so there is no backup: @ann:bob message 2: "):
        backup.backup(path, tmp_path / "backup.db", report)
    assert [file.name for file in tmp_path.iterdir()] == ["data"]


def test_a_restore_keeps_what_was_there_and_begins_a_new_epoch(
    path: Path, given: Given, tmp_path: Path
) -> None:
    """The old file goes to another name, with all that was in it; a running server is left alone."""
    backup.backup(path, tmp_path / "backup.db", report)
    epoch = given.store.epoch
    say(given, 2)
    with pytest.raises(ConfigurationError, match=r"another process.*stop it"):
        backup.restore(tmp_path / "backup.db", path, report)
    given.store._broken = True  # killed
    given.store.close()
    aside = backup.restore(tmp_path / "backup.db", path, report)
    assert aside is not None
    with check.reading(aside) as connection:
        assert connection.execute("SELECT head FROM conversation").fetchall() == [(5,)]
    given.store = open_store(path)
    assert given.store.epoch != epoch
    assert len(given.texts("@ann:bob", "bob")) == 3
    assert given.say("@ann:bob", "ann", "again").seq == 4


def test_a_restore_into_an_empty_place(given: Given, path: Path, tmp_path: Path) -> None:
    """Another machine, a new disk."""
    backup.backup(path, tmp_path / "backup.db", report)
    (tmp_path / "new").mkdir()
    assert backup.restore(tmp_path / "backup.db", tmp_path / "new" / "server.db", report) is None
    store = open_store(tmp_path / "new" / "server.db")
    assert len(store.entries("@ann:bob", "bob", limit=9)) == 3
    store.close()


def test_a_restore_leaves_nothing_beside_its_source(given: Given, path: Path, tmp_path: Path) -> None:
    """Also beside a raw copy of a stopped server's database, which SQLite would keep with a log."""
    given.store.close()
    (tmp_path / "usb").mkdir()
    shutil.copyfile(path, tmp_path / "usb" / "raw.db")
    backup.restore(tmp_path / "usb" / "raw.db", path, report)
    assert [file.name for file in (tmp_path / "usb").iterdir()] == ["raw.db"]
    given.store = open_store(path)
    assert len(given.texts("@ann:bob", "bob")) == 3


def test_a_damaged_old_file_is_kept_with_its_log(path: Path, given: Given, tmp_path: Path) -> None:
    """Somebody may want to save what can be saved; nothing of it gets into the new file."""
    backup.backup(path, tmp_path / "backup.db", report)
    given.reopen()  # so that its log has a few pages only
    say(given, 2)
    shutil.copyfile(path.with_name("server.db-wal"), tmp_path / "log")
    given.store._broken = True
    given.store.close()
    path.write_bytes(b"rubbish" * 5000)
    shutil.copyfile(tmp_path / "log", path.with_name("server.db-wal"))
    aside = backup.restore(tmp_path / "backup.db", path, report)
    assert aside is not None
    assert aside.read_bytes() == b"rubbish" * 5000
    assert aside.with_name(aside.name + "-wal").read_bytes() == (tmp_path / "log").read_bytes()
    given.store = open_store(path)
    assert len(given.texts("@ann:bob", "bob")) == 3


def test_what_is_no_good_backup_changes_nothing(path: Path, given: Given, tmp_path: Path) -> None:
    """Missing, damaged, of another program: refused in words before anything is touched."""
    given.store.close()
    (tmp_path / "text.db").write_text("not a database" * 999)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE mine (x)")
    (tmp_path / "emptied.db").touch()
    without_tables(tmp_path / "no_tables.db")
    shutil.copyfile(path, tmp_path / "bad.db")
    with closing(sqlite3.connect(tmp_path / "bad.db", isolation_level=None)) as connection:
        connection.execute("UPDATE message SET body = x'00' WHERE seq = 2")
    before = path.read_bytes()
    for name, words in (
        ("none.db", "there is no"),
        ("text.db", "not a database"),
        ("other.db", "another program"),
        ("emptied.db", "is empty: nothing is stored there"),
        ("no_tables.db", "is empty: nothing is stored there"),
        ("bad.db", "damaged, nothing was changed: @ann:bob message 2"),
    ):
        with pytest.raises((ConfigurationError, StorageError), match=words):
            backup.restore(tmp_path / name, path, report)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*restoring*"))
    given.store = open_store(path)


def test_a_new_epoch_can_be_asked_for(path: Path, given: Given) -> None:
    """For a copy that the server could not notice; not while it is running."""
    epoch = given.store.epoch
    with pytest.raises(ConfigurationError, match="stop it"):
        backup.begin_epoch(path)
    given.store.close()
    backup.begin_epoch(path)
    given.store = open_store(path)
    assert given.store.epoch != epoch
    with pytest.raises(ConfigurationError, match="there is no"):
        backup.begin_epoch(path.with_name("none.db"))


def test_locks_are_let_go(path: Path, given: Given, tmp_path: Path) -> None:
    """After a restore, good or bad, a server can be started."""
    given.store.close()
    with pytest.raises(ConfigurationError):
        backup.restore(tmp_path / "none.db", path, report)
    backup.begin_epoch(path)
    FileLock(path.with_name("server.db.lock"), purpose="it").release()
    given.store = open_store(path)


def test_an_interrupted_restore_is_not_started_on(path: Path, given: Given, tmp_path: Path) -> None:
    """Killed at any moment: half of the old files is never taken for all of them, and once more helps."""
    backup.backup(path, tmp_path / "backup.db", report)
    given.store.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)  # a killed process cleans nothing
        with pytest.raises(Killed):
            backup.restore(tmp_path / "backup.db", path, report)
    with pytest.raises(ConfigurationError, match=r"was interrupted: run  quicmsg restore FILE  again"):
        open_store(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.strftime", lambda text: "later")
        backup.restore(tmp_path / "backup.db", path, report)
    given.store = open_store(path)
    assert len(given.texts("@ann:bob", "bob")) == 3


class Killed(BaseException):
    pass


def kill(path: Path, to: Path) -> None:
    raise Killed


def test_a_file_system_without_links_will_do(
    path: Path, given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A USB stick, a share: the same files in the end, and still nothing is overwritten."""

    def link(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("quicmsg.store.backup.os.link", link)
    copy = tmp_path / "backup.db"
    backup.backup(path, copy, report)
    given.store.close()
    before = path.read_bytes()
    aside = backup.restore(copy, path, report)
    assert aside is not None
    assert aside.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backup.db", "data"]
    given.store = open_store(path)
    assert len(given.texts("@ann:bob", "bob")) == 3


def test_a_backup_that_another_one_overtook_is_refused(path: Path, given: Given, tmp_path: Path) -> None:
    """Two at once, to one name: the first has it, whole."""
    copy = tmp_path / "backup.db"

    def look(text: str) -> None:
        copy.write_text("the other one")

    with pytest.raises(ConfigurationError, match="never overwritten"):
        backup.backup(path, copy, look)
    assert copy.read_text() == "the other one"


def test_a_place_that_cannot_be_written_to_is_named(given: Given, path: Path, tmp_path: Path) -> None:
    """For the copy as for the store; the directory of a new machine's server is made."""
    with pytest.raises(StorageError, match=r"cannot write .*nowhere/backup\.db"):
        backup.backup(path, tmp_path / "nowhere" / "backup.db", report)
    backup.backup(path, tmp_path / "backup.db", report)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot use .*file/server\.db: File exists"):
        backup.restore(tmp_path / "backup.db", tmp_path / "file" / "server.db", report)
    backup.restore(tmp_path / "backup.db", tmp_path / "new" / "data" / "server.db", report)
    assert stat.S_IMODE((tmp_path / "new" / "data").stat().st_mode) == 0o700


def test_an_older_file_is_brought_forward_before_it_is_checked(
    given: Given, path: Path, tmp_path: Path
) -> None:
    """Its backup can be restored; to be checked itself, a start has to give it its hashes."""
    given.store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "ALTER TABLE message DROP COLUMN chain; ALTER TABLE conversation DROP COLUMN chain;"
            "PRAGMA user_version = 2"
        )
    with pytest.raises(ConfigurationError, match="older quicmsg: start this version's server once"):
        backup.backup(path, tmp_path / "backup.db", report)
    shutil.copyfile(path, tmp_path / "old.db")
    backup.restore(tmp_path / "old.db", path, report)
    given.store = open_store(path)
    assert len(given.texts("@ann:bob", "bob")) == 3


def test_a_check_ends_after_enough(path: Path, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file full of damage is not listed to its end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE message SET body = x'00'")
    monkeypatch.setattr(check, "STORE_DAMAGES_MAX", 2)
    with check.reading(path) as reader:
        assert len(check.whole(reader, report)) == 2
